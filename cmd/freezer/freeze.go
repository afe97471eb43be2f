package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/audit"
)

type freezeCmd struct {
	Groups    []string      `arg:"" name:"group" help:"Groups of the tree, or cgroups by their path."`
	Timeout   time.Duration `default:"5s" help:"How long to wait until each task is frozen."`
	OnTimeout string        `enum:"keep,thaw" default:"keep" placeholder:"keep|thaw" help:"What then becomes of the group: keep it FREEZING, or thaw it back."`
	Force     bool          `help:"Freeze also what this command, its shell or its login depends on."`
	By        string        `placeholder:"OWNER" help:"The name of the hold: the group stays frozen until its last hold is taken off."`
	Why       string        `placeholder:"TEXT" help:"The reason, for others to read."`
	For       time.Duration `placeholder:"TIME" help:"Take the hold off after that time."`
	While     int           `placeholder:"PID" help:"Take the hold off when that process ends."`
	Reclaim   reclaimFlag   `placeholder:"[SIZE]" help:"When the group is FROZEN, push its memory out to swap: all of it, or --reclaim=SIZE."`
	Invisible invisibleFlag `placeholder:"[restart]" help:"Have the thaw hide even what the kernel's freezer shows: interrupted system calls and timeouts that begin anew. With =restart, not the timeouts."`
	PreFreeze string        `placeholder:"COMMAND" help:"Run that first, by a shell; when it fails nothing is frozen. FREEZER_GROUP names the group."`
}

// Help is the part of the help that follows the flags.
func (*freezeCmd) Help() string {
	return `Several groups are frozen as one: all of them or, when one cannot be frozen in time, none.

At the deadline the tasks that are not frozen are listed, each with what it waits for and what helps; the exit status is 75. Interrupted (^C), it puts the groups back as they were.`
}

func (c *freezeCmd) Run(s *session) error {
	switch {
	case c.Timeout <= 0:
		return &statusError{usage, errors.New("--timeout must be more than 0s")}
	case c.For < 0:
		return &statusError{usage, errors.New("--for must be more than 0s")}
	}
	ready := s.notice()
	gang, err := s.groups(c.Groups...)
	if err != nil {
		return err
	}
	if err := hook(gang, c.PreFreeze, nil); err != nil {
		return err
	}
	for _, g := range gang {
		for _, w := range g.Warnings() {
			say("warning: " + w)
		}
	}
	ctx := ready(c.Timeout)
	if ctx.Err() != nil {
		return errors.New("freeze: interrupted before it began")
	}
	var skew time.Duration
	err = gang.Freeze(ctx, append(c.options(), freezer.Skew(&skew))...)
	record(gang, audit.Event{Op: "freeze", Forced: c.Force, Reason: c.Why, Err: err})
	var memory map[*freezer.Group]*reclaimed
	if err == nil && len(gang) > 1 && !s.JSON {
		say(fmt.Sprintf("all of them stopped within %s", skew.Round(10*time.Microsecond)))
	}
	if err == nil && c.Reclaim.set {
		memory, err = s.reclaim(ready(0), gang, c.Reclaim.size)
	}
	if s.JSON {
		return errors.Join(err, s.states(gang, err, func(r *report, g *freezer.Group) {
			r.Memory = memory[g]
			if err == nil {
				r.Skew = skew.Seconds()
			}
		}))
	}
	return err
}

func (c *freezeCmd) options() []freezer.FreezeOption {
	opts := []freezer.FreezeOption{freezer.ThawOnCancel(), freezer.Why(c.Why)}
	if c.OnTimeout == "thaw" {
		opts = append(opts, freezer.ThawOnTimeout())
	}
	if c.Force {
		opts = append(opts, freezer.Force())
	}
	if c.By != "" {
		opts = append(opts, freezer.By(c.By))
	}
	if c.For > 0 {
		opts = append(opts, freezer.For(c.For))
	}
	if c.While != 0 {
		opts = append(opts, freezer.While(c.While))
	}
	if c.Invisible.option != nil {
		opts = append(opts, c.Invisible.option())
	}
	return opts
}

type thawCmd struct {
	Groups   []string `arg:"" name:"group" help:"Groups of the tree, or cgroups by their path."`
	By       string   `placeholder:"OWNER" help:"Take that owner's hold off, not the default one."`
	All      bool     `help:"Take all holds off, whoever's they are."`
	Why      string   `placeholder:"TEXT" help:"The reason, for the log."`
	Prefetch bool     `help:"First bring back into memory what the group has in swap."`
	PostThaw string   `placeholder:"COMMAND" help:"Then run that, by a shell. FREEZER_GROUP names the group, FREEZER_SECONDS says how long it was frozen."`
}

// Help is the part of the help that follows the flags.
func (*thawCmd) Help() string {
	return `A group that others hold stays frozen, and it is said who they are. So does a group below a frozen one, until that is thawed as well.`
}

func (c *thawCmd) Run(s *session) error {
	gang, err := s.groups(c.Groups...)
	if err != nil {
		return err
	}
	if done, err := delegated(gang, thawNeedsMinder); done || err != nil {
		return err
	}
	for _, g := range gang {
		s.minded = append(s.minded, g.Settled)
	}
	var since map[*freezer.Group]time.Time
	if c.PostThaw != "" {
		since = frozenSince(gang)
	}
	ready := s.notice()
	if c.Prefetch {
		if err := s.prefetch(ready(0), gang); err != nil {
			return err
		}
	}
	ready(0) // all of them are thawed, or none
	var thawed freezer.Gang
	err = each(gang, func(g *freezer.Group) error {
		err := g.Thaw(c.options()...)
		record(freezer.Gang{g}, audit.Event{Op: "thaw", Forced: c.All, Reason: c.Why, Err: err})
		var held *freezer.HeldError
		if errors.As(err, &held) && held.Took {
			say(g.Name() + ": the hold is taken off; " + held.Error())
			return nil
		}
		if err == nil {
			thawed = append(thawed, g)
			stillFrozen(g)
			exposed(g)
		}
		return err
	})
	err = errors.Join(err, hook(thawed, c.PostThaw, lasted(since)))
	if s.JSON {
		return errors.Join(err, s.states(gang, nil, nil))
	}
	return err
}

func (c *thawCmd) options() (opts []freezer.ThawOption) {
	if c.By != "" {
		opts = append(opts, freezer.HeldBy(c.By))
	}
	if c.All {
		opts = append(opts, freezer.AllHolds())
	}
	return opts
}

// stillFrozen says so when a group that was thawed does not run, because of one
// above it.
func stillFrozen(g *freezer.Group) {
	if above, err := g.FrozenBy(); err == nil && above != nil {
		say(fmt.Sprintf("%s stays frozen, because %s above it is; thaw that with: freezer thaw %s", g.Name(), above.Name(), quote(above.Name())))
	}
}

// exposed names the tasks that an invisible thaw could not hide it from.
func exposed(g *freezer.Group) {
	for _, t := range g.Exposed() {
		say(fmt.Sprintf("%s: task %d (%s) may have noticed that it was frozen: %s", g.Name(), t.TID, printable(t.Command), t.Reason))
	}
}

type stateCmd struct {
	Groups []string `arg:"" name:"group" help:"Groups of the tree, or cgroups by their path."`
}

// Help is the part of the help that follows the flags.
func (*stateCmd) Help() string {
	return `For one group it prints the one word, for several each with the group's name before it.`
}

func (c *stateCmd) Run(s *session) error {
	gang, err := s.groups(c.Groups...)
	if err != nil {
		return err
	}
	if s.JSON {
		return s.states(gang, nil, nil)
	}
	return each(gang, func(g *freezer.Group) error {
		state, err := g.State()
		if err != nil {
			return err
		}
		if len(gang) > 1 {
			fmt.Fprintf(&s.out, "%s ", printable(g.Name()))
		}
		fmt.Fprintln(&s.out, state)
		return nil
	})
}

// A report is what JSON says of one group's state.
type report struct {
	Group string `json:"group"`
	freezer.States
	Blockers []freezer.Blocker `json:"blockers,omitempty"`
	Skew     float64           `json:"skew_seconds,omitempty"` // within which all groups stopped
	Memory   *reclaimed        `json:"memory,omitempty"`
}

// states writes a report of each group; the blockers are those of a freeze that
// came too late. add may be nil.
func (s *session) states(gang freezer.Gang, frozen error, add func(*report, *freezer.Group)) error {
	var late *freezer.FreezingError
	var op *freezer.OpError
	errors.As(frozen, &late)
	errors.As(frozen, &op)
	list := make([]report, 0, len(gang))
	err := each(gang, func(g *freezer.Group) error {
		states, err := g.States()
		if err != nil {
			return err
		}
		r := report{Group: g.Name(), States: states}
		if late != nil && op != nil && op.Group == g.Name() {
			r.Blockers = late.Blockers
		}
		if add != nil {
			add(&r, g)
		}
		list = append(list, r)
		return nil
	})
	return errors.Join(s.json(list), err)
}

// record tells the log of the host what was done to each group.
func record(gang freezer.Gang, e audit.Event) {
	for _, g := range gang {
		e.Group, e.Dir = g.Name(), g.Dir()
		audit.Record(e)
	}
}
