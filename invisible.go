package freezer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// callsAttr holds, of a group that is to be thawed invisibly, the system calls
// that its tasks were in before they were frozen, as internal/invisible writes it.
const callsAttr = "user.freezer.calls"

// How timeouts are to go on.
const (
	callsTimed   = iota + 1
	callsRestart // from their beginning
)

// maxCalls is how long the attribute may be, so that there is room for holds: enough
// for the calls of some thousand tasks.
const maxCalls = 48 << 10

// Invisible has whoever thaws the group with this package hide even what the
// kernel's freezer shows to tasks: some system calls (epoll_wait, semop, receiving
// with a timeout …) fail with EINTR when they are frozen, and some sleep too long.
// They start again instead, with what is left of their timeouts, and signals that
// came meanwhile act as if they had come during the call.
//
// It costs some 10 µs for each task, before the freeze and at the thaw. It needs
// the right to trace the tasks, and x86-64; ErrUnsupported says that it cannot be
// had, on cgroup1 among others. On cgroup2 a process that thaws must go on until the
// calls have returned (see Settled). In a group with more calls than the group has room
// to remember, timeouts start again in full.
func Invisible() FreezeOption { return func(o *freezeOptions) { o.calls = callsTimed } }

// InvisibleRestart is Invisible without the timeouts: calls that start again
// wait for their whole timeout once more, and nobody needs to stay to see to it.
func InvisibleRestart() FreezeOption { return func(o *freezeOptions) { o.calls = callsRestart } }

// rememberCalls notes the calls that the group's tasks are in, before it is
// frozen.
func (g *Group) rememberCalls(how int) error {
	if how == 0 {
		return nil
	}
	if !invisible.Supported() {
		return fmt.Errorf("%w: an invisible thaw needs x86-64", ErrUnsupported)
	}
	if g.backend.name == Cgroup1 {
		return fmt.Errorf("%w: an invisible thaw needs cgroup2 or ptrace: who is frozen by cgroup1 cannot be traced", ErrUnsupported)
	}
	if on, err := g.cg.Freezing(); err != nil || on {
		return err // it was told before, or it is too late
	}
	s := invisible.New()
	if how == callsTimed {
		tids, err := g.everyTask()
		if err != nil {
			return err
		}
		s = invisible.Prepare(tids)
	}
	calls, err := s.MarshalBinary()
	if len(calls) > maxCalls {
		calls, err = invisible.New().MarshalBinary()
	}
	if err != nil {
		return err
	}
	return g.setAttr(callsAttr, calls)
}

// everyTask lists the tasks of the group and of its descendants.
func (g *Group) everyTask() (tids []int, err error) {
	all, err := g.Walk()
	for _, sub := range all {
		some, err := g.backend.Threads(sub.dir)
		if err != nil && err != unix.ENOENT {
			return nil, err
		}
		tids = append(tids, some...)
	}
	return tids, err
}

// run lets the group run, invisibly if that was asked for: attrs are the names
// of its attributes.
func (g *Group) run(attrs []string) error {
	thaw := func() error { return g.cg.SetFreezing(false) }
	if !slices.Contains(attrs, callsAttr) {
		return thaw()
	}
	s, err := g.recallCalls()
	if err != nil {
		return err
	}
	if own, ok := g.cg.(invisibleThawer); ok {
		return errors.Join(own.ThawInvisibly(s), g.removeAttr(callsAttr))
	}
	tids, err := g.everyTask()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), DefaultTimeout)
	defer cancel()
	err = s.Thaw(ctx, tids, thaw)
	g.settling.Store(s)
	return errors.Join(err, g.removeAttr(callsAttr))
}

// An invisibleThawer looks after the calls itself.
type invisibleThawer interface {
	ThawInvisibly(s *invisible.Session) error
}

func (g *Group) recallCalls() (*invisible.Session, error) {
	calls, err := g.getAttr(callsAttr)
	if err != nil && err != unix.ENODATA {
		return nil, err
	}
	s := new(invisible.Session)
	if s.UnmarshalBinary(calls) != nil { // it is not ours
		s = invisible.New()
	}
	return s, nil
}

// ThawsInvisibly says whether the group was frozen with Invisible, so that
// whoever thaws it should wait until it has Settled.
func (g *Group) ThawsInvisibly() bool {
	s, err := g.recallCalls()
	return err == nil && !s.Restart
}

// Settled waits until the calls that started again at a thaw through this handle
// have returned, which takes as long as they wait. A process that ends before
// leaves those to end late; nothing else happens to the tasks.
func (g *Group) Settled(ctx context.Context) error {
	s := g.settling.Load()
	if s == nil {
		return nil
	}
	return opError("thaw", g.name, s.Wait(ctx))
}

// An ExposedTask is one that may have noticed that it was frozen.
type ExposedTask struct {
	TID     int    `json:"tid"`
	Command string `json:"command"` // its name, as in /proc/TID/comm
	Reason  string `json:"reason"`  // why it could not be hidden
}

// Exposed lists the tasks from which the last invisible thaw through this handle
// could not hide the freeze, because somebody else traces them. By ptrace there
// are none: such tasks are blockers there.
func (g *Group) Exposed() (tasks []ExposedTask) {
	s := g.settling.Load()
	if s == nil {
		return nil
	}
	for _, skip := range s.Skipped() {
		name, _ := kernfs.ReadFile(proc.Path(skip.TID, "comm"))
		tasks = append(tasks, ExposedTask{skip.TID, strings.TrimSuffix(string(name), "\n"), skip.Why})
	}
	return tasks
}

// settled says whether Settled would return at once.
func (g *Group) settled() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	return g.Settled(ctx) == nil
}
