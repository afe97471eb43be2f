package freezer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultTimeout bounds a Freeze whose context has no deadline.
const DefaultTimeout = 5 * time.Second

type freezeOptions struct {
	force   bool
	putBack bool
	grace   bool
}

// A FreezeOption changes how Freeze goes about it.
type FreezeOption func(*freezeOptions)

// ThawOnTimeout puts groups that could not be frozen in time back as they
// were, instead of leaving them FREEZING.
func ThawOnTimeout() FreezeOption { return func(o *freezeOptions) { o.putBack = true } }

// Force freezes also what is refused with ErrSelf otherwise: a group that holds
// the caller, one of its ancestors, or the server of a file system that it uses.
// PID 1 and servers of this project are refused all the same.
func Force() FreezeOption { return func(o *freezeOptions) { o.force = true } }

// Freeze freezes the group and waits until each task in it and below it is
// frozen. It returns nil only then.
//
// When ctx ends first, or DefaultTimeout passes where ctx has no deadline, the
// error is a FreezingError with the blockers, and the group stays FREEZING
// (but see ThawOnTimeout). Freezing a frozen group succeeds at once; so does
// freezing an empty one. ErrThawed says that somebody thawed the group while
// this call waited.
func (g *Group) Freeze(ctx context.Context, opts ...FreezeOption) error {
	return Gang{g}.Freeze(ctx, opts...)
}

// Thaw lets the group run, and returns when that was asked for, which takes
// effect at once. Its tasks stay frozen while an ancestor is freezing; States
// tells.
func (g *Group) Thaw() error {
	return opError("thaw", g.name, g.cg.SetFreezing(false))
}

// A Gang is several groups that are frozen as one.
type Gang []*Group

// Freeze freezes all groups or none: each is asked first, then all are waited
// for together. When one fails, those that are not as they were before are put
// back; only a gang of one stays FREEZING at the deadline. The error then names
// the group that failed first. See Group.Freeze for the rest.
func (gang Gang) Freeze(ctx context.Context, opts ...FreezeOption) error {
	var o freezeOptions
	for _, opt := range opts {
		opt(&o)
	}
	o.putBack = o.putBack || len(gang) > 1
	if _, ok := ctx.Deadline(); !ok {
		bounded, cancel := context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
		ctx = bounded
	}
	asked, err := gang.ask(&o)
	if err == nil {
		err = gang.wait(ctx, &o)
	}
	if err != nil && o.putBack {
		for _, g := range asked {
			_ = g.cg.SetFreezing(false)
		}
	}
	return err
}

// ask writes FROZEN everywhere, after it made sure of all that can fail before.
// It returns the groups that were thawed until then.
func (gang Gang) ask(o *freezeOptions) (asked []*Group, err error) {
	for _, g := range gang {
		if err := g.mayFreeze(o.force); err != nil {
			return nil, opError("freeze", g.name, err)
		}
		if err := g.prepare(); err != nil {
			return nil, opError("freeze", g.name, err)
		}
	}
	if len(gang) > 0 {
		gang[0].f.warm()
	}
	for _, g := range gang {
		if o.putBack {
			was, err := g.cg.Freezing()
			if err != nil {
				return asked, opError("freeze", g.name, err)
			}
			if !was {
				asked = append(asked, g)
			}
		}
		if err := g.cg.SetFreezing(true); err != nil {
			return asked, opError("freeze", g.name, err)
		}
	}
	return asked, nil
}

func (g *Group) prepare() error {
	err := g.cg.Prepare()
	switch {
	case err == unix.EMFILE:
		return fmt.Errorf("%w: raise the limit of open files (ulimit -n)", err)
	case err == unix.ENOENT && g.dir == g.backend.mount:
		return fmt.Errorf("%w: the top of the hierarchy cannot be frozen", ErrUnsupported)
	}
	return err
}

// Times of the waiting. A freeze of sleeping tasks takes 0.05 ms, of busy ones
// up to 4 ms; a wake-up by the kernel's event comes 10 ms late. So the state is
// read at once and between yields; then at growing intervals, because reading
// without a pause keeps busy members from running into the freezer; and only
// then the thread sleeps until there is an event.
const (
	looks     = 24
	firstNap  = 20 * time.Microsecond
	longNap   = time.Millisecond // also the beat on which Renew helps best
	nappedOut = 3 * time.Millisecond
	eventWait = 10 * time.Millisecond
)

func (gang Gang) wait(ctx context.Context, o *freezeOptions) error {
	pending := slices.Clone(gang)
	for range looks {
		if err := pending.drop(); err != nil || len(pending) == 0 {
			return err
		}
		yield()
	}
	nap := firstNap
	for start := time.Now(); ; {
		if err := pending.drop(); err != nil || len(pending) == 0 {
			return err
		}
		if ctx.Err() != nil {
			return pending.late(ctx, o)
		}
		if time.Since(start) > nappedOut {
			if err := pending.renew(); err != nil {
				return err
			}
			if pending.awaitEvent(ctx) {
				continue
			}
		}
		sleep(nap)
		nap = min(2*nap, longNap)
	}
}

// drop takes the groups that are FROZEN out.
func (pending *Gang) drop() error {
	left := (*pending)[:0]
	for _, g := range *pending {
		frozen, err := g.cg.Frozen()
		if err != nil {
			return opError("freeze", g.name, err)
		}
		if !frozen {
			left = append(left, g)
		}
	}
	*pending = left
	return nil
}

// renew asks again, unless somebody thawed the group meanwhile: nobody's thaw
// is undone.
func (pending Gang) renew() error {
	for _, g := range pending {
		on, err := g.cg.Freezing()
		if err == nil && !on {
			err = ErrThawed
		}
		if err == nil {
			err = g.cg.Renew()
		}
		if err != nil {
			return opError("freeze", g.name, err)
		}
	}
	return nil
}

// awaitEvent sleeps until the kernel reports a change of the first group, which
// has to freeze before the gang is frozen anyway. It is false where there are
// no events. Not each exit of a blocker raises one, so the wait is short.
func (pending Gang) awaitEvent(ctx context.Context) bool {
	wait := eventWait
	if d, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(d)), 0)
	}
	timeout := unix.NsecToTimespec(int64(wait))
	err := pending[0].cg.Event(func(fd int) error {
		_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, &timeout, nil)
		return err
	})
	return err == nil || errors.Is(err, unix.EINTR)
}

// late makes the error for a gang whose time is up.
func (pending Gang) late(ctx context.Context, o *freezeOptions) error {
	g := pending[0]
	blockers, _ := g.Blockers()
	return &OpError{"freeze", g.name, &FreezingError{Blockers: blockers, Thawed: o.putBack, Cause: ctx.Err()}}
}

// sleep naps in the kernel: the runtime's timers add tens of microseconds.
func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil)
}

// yield lets another task of this processor run.
func yield() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// Thaw thaws all groups. Each is tried; the error is the first one.
func (gang Gang) Thaw() error {
	var first error
	for _, g := range gang {
		if err := g.Thaw(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
