package freezer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultTimeout bounds a Freeze whose context has no deadline.
const DefaultTimeout = 5 * time.Second

type freezeOptions struct {
	force    bool
	putBack  bool
	recant   bool   // puts back, but only what was canceled
	brief    bool   // no blockers in the error
	asked    func() // called before the waiting
	owner    string // of the hold
	record   holdRecord
	recorded bool           // even if it is the default hold
	calls    int            // how to thaw invisibly, 0 for not
	skew     *time.Duration // is set
}

// plain are the options of a Freeze without any, which needs none made for it:
// memory that was not touched for a while takes 3 µs.
var plain = &freezeOptions{owner: DefaultOwner}

func (gang Gang) options(opts []FreezeOption) *freezeOptions {
	if len(opts) == 0 && len(gang) == 1 {
		return plain
	}
	o := freezeOptions{owner: DefaultOwner, putBack: len(gang) > 1}
	for _, opt := range opts {
		opt(&o)
	}
	return &o
}

// A FreezeOption changes how Freeze goes about it.
type FreezeOption func(*freezeOptions)

// ThawOnTimeout puts groups that could not be frozen in time back as they
// were, instead of leaving them FREEZING.
func ThawOnTimeout() FreezeOption { return func(o *freezeOptions) { o.putBack = true } }

// ThawOnCancel puts groups back as they were when the context is canceled before
// they are frozen. That it reached its deadline is another matter: see
// ThawOnTimeout.
func ThawOnCancel() FreezeOption { return func(o *freezeOptions) { o.recant = true } }

// Asked has f called when all is asked for and the waiting begins: from then on
// the groups are FREEZING, whatever becomes of this call.
func Asked(f func()) FreezeOption { return func(o *freezeOptions) { o.asked = f } }

// WithoutBlockers leaves the blockers out of the error. To find them takes some
// ten microseconds for each task after the deadline.
func WithoutBlockers() FreezeOption { return func(o *freezeOptions) { o.brief = true } }

// Skew has *d set to the time within which all tasks of the groups stopped: from
// the first request until the last group was seen FROZEN, which is an upper bound.
// It is set when Freeze succeeds.
func Skew(d *time.Duration) FreezeOption { return func(o *freezeOptions) { o.skew = d } }

// Force freezes also what is refused with ErrSelf otherwise: a group that holds
// the caller, one of its ancestors, or the server of a file system that it uses.
// PID 1 and servers of this project are refused all the same. A caller that so
// freezes itself is told, when it runs again, that somebody thawed it (ErrThawed).
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

// A Gang is several groups that are frozen as one.
type Gang []*Group

// Freeze freezes all groups or none: each is asked first, then all are waited
// for together. When one fails, those that are not as they were before are put
// back; only a gang of one stays FREEZING at the deadline. The error then names
// the group that failed first. See Group.Freeze for the rest.
func (gang Gang) Freeze(ctx context.Context, opts ...FreezeOption) error {
	o := gang.options(opts)
	held, start, err := gang.hold(o)
	if err == nil {
		if o.asked != nil {
			for _, g := range gang {
				_, _ = g.cg.Frozen() // by ptrace, this is when tasks are told
			}
			o.asked()
		}
		err = gang.wait(ctx, start, o)
	}
	if err == nil && o.skew != nil {
		*o.skew = time.Since(start)
	}
	if err != nil && o.putsBack(ctx) {
		for _, g := range held {
			_ = g.Thaw(HeldBy(o.owner)) // its best
		}
	}
	return err
}

// putsBack says whether a failed Freeze undoes what it did.
func (o *freezeOptions) putsBack(ctx context.Context) bool {
	return o.putBack || o.recant && errors.Is(ctx.Err(), context.Canceled)
}

// hold asks everywhere, after it made sure of all that can fail before. It
// returns the groups that got a hold which they did not have, if they may have
// to be put back, and when it began to ask.
func (gang Gang) hold(o *freezeOptions) (held []*Group, start time.Time, err error) {
	if err := o.checkHold(); err != nil {
		return nil, start, opError("freeze", "", err)
	}
	for _, g := range gang {
		if err := g.mayFreeze(o.force, len(gang) == 1); err != nil {
			return nil, start, opError("freeze", g.name, err)
		}
		if err := g.fresh(g.prepare); err != nil {
			return nil, start, opError("freeze", g.name, err)
		}
		if o.record.lease() {
			if err := g.registerLease(); err != nil {
				return nil, start, opError("freeze", g.name, err)
			}
		}
		if err := g.rememberCalls(o.calls); err != nil {
			return nil, start, opError("freeze", g.name, err)
		}
	}
	start = time.Now()
	for _, g := range gang {
		var added bool
		err := g.fresh(func() (err error) {
			added, err = g.ask(o)
			return err
		})
		if added && (o.putBack || o.recant) {
			held = append(held, g)
		}
		if err == nil && o.record.lease() {
			err = g.registerLease() // once more: the keeper looks now
		}
		if err != nil {
			return held, start, opError("freeze", g.name, err)
		}
	}
	if len(gang) > 0 {
		gang[0].f.warm(time.Since(start))
	}
	return held, start, nil
}

func (g *Group) prepare() error {
	err := g.cg.Prepare()
	if err == unix.ENOENT && g.dir == g.backend.mount {
		return fmt.Errorf("%w: the top of the hierarchy cannot be frozen", ErrUnsupported)
	}
	return err
}

// Times of the waiting. Sleeping tasks freeze in 0.01 to 0.05 ms, busy ones as
// soon as they get a processor. So the state is read at once, and then between
// yields: reading without a pause keeps busy members from running into the
// freezer (4 to 20 ms instead of 0.03). When a yield was long, a stranger ran and
// not a member: no more of them. From then on the thread sleeps until the kernel
// reports a change, which it does once in 10 ms at most, or for a time that grows
// with the time already waited.
const (
	yielding  = 200 * time.Microsecond
	longYield = 500 * time.Microsecond
	firstNap  = 20 * time.Microsecond
	beat      = time.Millisecond // on which Renew helps best
	longNap   = 50 * time.Millisecond
)

// wait returns when all groups are FROZEN. It looks at one after the other: the
// gang is not frozen before each of them is.
func (gang Gang) wait(ctx context.Context, start time.Time, o *freezeOptions) error {
	p := patience{ctx: ctx, start: start}
	for _, g := range gang {
		err := p.wait(g)
		if cause := p.over; cause != nil {
			blockers, _ := g.Blockers()
			err = &FreezingError{Blockers: blockers, Thawed: o.putsBack(ctx), Cause: cause}
		}
		if err != nil {
			return opError("freeze", g.name, err)
		}
	}
	return nil
}

// patience is what is left of it while a gang freezes.
type patience struct {
	ctx     context.Context
	start   time.Time
	crowded bool  // others want this processor
	over    error // why waiting ended
}

func (p *patience) deadline() time.Time {
	if deadline, ok := p.ctx.Deadline(); ok {
		return deadline
	}
	return p.start.Add(DefaultTimeout)
}

// wait returns nil when the group is FROZEN, or patience is over.
func (p *patience) wait(g *Group) error {
	for nap, renewed := firstNap, p.start; ; {
		frozen, err := g.cg.Frozen()
		if err != nil || frozen {
			return err
		}
		now := time.Now()
		if !p.crowded && now.Sub(p.start) < yielding {
			yield()
			p.crowded = time.Since(now) > longYield
			continue
		}
		if over := p.ended(now); over != nil {
			if err := g.asked(); err != nil {
				return err
			}
			p.over = over
			return nil
		}
		if now.Sub(renewed) >= beat {
			if err := g.renew(); err != nil {
				return err
			}
			renewed = now
		}
		g.nap(min(nap, p.deadline().Sub(now)))
		nap = min(2*nap, beat+now.Sub(p.start)/64, longNap)
	}
}

func (p *patience) ended(now time.Time) error {
	if err := p.ctx.Err(); err != nil || now.Before(p.deadline()) {
		return err
	}
	return context.DeadlineExceeded
}

// asked is ErrThawed when somebody thawed the group meanwhile.
func (g *Group) asked() error {
	on, err := g.cg.Freezing()
	if err == nil && !on {
		err = ErrThawed
	}
	return err
}

// renew asks again, unless somebody thawed the group meanwhile: a thaw is not
// undone, but for one in the microseconds between the two.
func (g *Group) renew() error {
	if err := g.asked(); err != nil {
		return err
	}
	return g.cg.Renew()
}

// nap sleeps for d, less when the kernel reports meanwhile that the state may
// have changed. Not each exit of a blocker is reported.
func (g *Group) nap(d time.Duration) {
	err := g.cg.Event(func(fd int) error {
		timeout := unix.NsecToTimespec(int64(d))
		_, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, &timeout, nil)
		return err
	})
	if err != nil && err != unix.EINTR {
		sleep(d)
	}
}

// sleep naps in the kernel: the runtime's timers add tens of microseconds.
func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil)
}

// yield lets another task of this processor run.
func yield() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// Thaw thaws all groups; see Group.Thaw. Each is tried; the error is the first
// one.
func (gang Gang) Thaw(opts ...ThawOption) error {
	var first error
	for _, g := range gang {
		if err := g.Thaw(opts...); err != nil && first == nil {
			first = err
		}
	}
	return first
}
