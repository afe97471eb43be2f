package demo

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/proc"
)

// freeze freezes a group, within limit, and returns how long it took.
func freeze(ctx context.Context, g *freezer.Group, limit time.Duration) (time.Duration, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	err := g.Freeze(bounded)
	took := time.Since(start)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return took, err
}

// thaw thaws a group, and says so.
func (s *stage) thaw(g *freezer.Group) error {
	start := time.Now()
	err := g.Thaw()
	took := time.Since(start)
	if err == nil {
		s.does("freezer thaw "+g.Name(), "THAWED after "+ms(took))
	}
	return err
}

// How long to look whether frozen tasks do anything, and for how long nothing
// comes once what they wrote before has made its way through the terminal.
const (
	watchTime  = 150 * time.Millisecond
	settleTime = 30 * time.Millisecond
)

// hold freezes a group on a terminal, types keys there, looks for a while
// whether anybody answers, and thaws the group.
func (s *stage) hold(ctx context.Context, about string, t *terminal, g *freezer.Group, keys string) error {
	took, err := freeze(ctx, g, patience)
	if err != nil {
		return err
	}
	mark := t.mark()
	for last := -1; last != mark; mark = t.mark() {
		last = mark
		pause(ctx, settleTime)
	}
	s.terminal(t.news())
	s.does("freezer freeze "+g.Name(), "FROZEN after "+ms(took))
	if err := t.press(keys); err != nil {
		return err
	}
	echoed := until(ctx, patience, func() bool { return t.since(mark) == keys }) // by the terminal itself
	pause(ctx, watchTime)
	s.terminal(t.news())
	state, err := g.State()
	if err != nil {
		return err
	}
	silent := echoed && t.since(mark) == keys
	s.check(about, silent && state == freezer.Frozen, "For %d ms it is FROZEN and does nothing.", watchTime.Milliseconds())
	return s.thaw(g)
}

// signal sends a signal, and says so.
func (s *stage) signal(pid int, sig syscall.Signal) error {
	s.does(fmt.Sprintf("kill -%s %d", unix.SignalName(sig), pid), "")
	return syscall.Kill(pid, sig)
}

// alive says whether a process is there and not yet dead.
func alive(pid int) bool {
	st, err := proc.ReadStat(pid)
	return err == nil && st.State != 'Z' && st.State != 'X'
}
