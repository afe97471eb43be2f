package freezer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// DefaultOwner is the owner of the default hold: the one that Freeze puts on a
// group when it is not told an owner, and that a raw write to the kernel's own
// file amounts to.
const DefaultOwner = "default"

// A Hold is a named reason for a group to stay frozen. A group thaws when its
// last hold goes. Holds are extended attributes of the group's directory, so
// they live exactly as long as the group.
type Hold struct {
	Owner  string    `json:"owner"`
	Reason string    `json:"reason,omitempty"`
	User   int       `json:"uid"`                // who put it there, as far as that one says
	Since  time.Time `json:"since,omitzero"`     // zero for a default hold that was made by a raw write
	Until  time.Time `json:"expires,omitzero"`   // a lease ends by itself at this time …
	While  int       `json:"while_pid,omitzero"` // … or when this process is gone
	// Overridden is set when somebody thawed the group in spite of the hold. It
	// holds nothing any more, and goes when the group is next frozen.
	Overridden bool `json:"overridden,omitempty"`

	record holdRecord
}

// Lease says whether the hold ends by itself.
func (h Hold) Lease() bool { return h.record.lease() }

// holdPrefix begins the names of the attributes; the owner follows.
const holdPrefix = "user.freezer.hold."

// A holdRecord is the attribute's value, in JSON.
type holdRecord struct {
	Reason string    `json:"reason,omitempty"`
	User   int       `json:"uid"`
	Since  time.Time `json:"since"`
	Until  int64     `json:"until,omitempty"` // nanoseconds of CLOCK_BOOTTIME, which no one sets
	While  int       `json:"while,omitempty"` // PID …
	Start  uint64    `json:"start,omitempty"` // … and start time, lest another gets the PID
}

// over says whether a lease has ended.
func (r holdRecord) over() bool {
	if r.Until != 0 && bootNow() >= r.Until {
		return true
	}
	return r.While != 0 && processID{r.While, r.Start}.ended()
}

// A processID names a process beyond its end, when others may have its PID.
type processID struct {
	pid   int
	start uint64 // clock ticks since the machine began
}

func (id processID) ended() bool {
	s, err := proc.ReadStat(id.pid)
	return errors.Is(err, unix.ESRCH) || err == nil && (s.Start != id.start || s.State == 'Z')
}

func bootNow() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail
	return ts.Nano()
}

// CheckOwner says, with ErrName, why nobody can be called so.
func CheckOwner(owner string) error {
	if owner == "" || len(owner) > 200 || strings.ContainsAny(owner, "\x00\n/") {
		return fmt.Errorf("%w: %q: an owner's name is 1 to 200 bytes without slash, newline and NUL", ErrName, owner)
	}
	return nil
}

// Holds lists the holds on the group, by owner. Leases that are over are left
// out. A value that this package did not write counts as a hold without expiry.
func (g *Group) Holds() ([]Hold, error) {
	holds, err := g.holds()
	if err != nil {
		return nil, opError("list holds of", g.name, err)
	}
	on, err := g.cg.Freezing()
	if err != nil {
		return nil, opError("list holds of", g.name, err)
	}
	holds = slices.DeleteFunc(holds, func(h Hold) bool { return h.record.over() })
	if on && len(holds) == 0 {
		holds = append(holds, Hold{Owner: DefaultOwner})
	}
	for i := range holds {
		holds[i].Overridden = !on
	}
	return holds, nil
}

// holds reads all attributes, ended leases too.
func (g *Group) holds() ([]Hold, error) {
	attrs, err := g.listAttrs()
	if err != nil {
		return nil, err
	}
	return g.readHolds(attrs)
}

// readHolds reads those of the attributes that are holds.
func (g *Group) readHolds(attrs []string) (holds []Hold, err error) {
	for _, owner := range owners(attrs) {
		value, err := g.getAttr(holdPrefix + owner)
		if err == unix.ENODATA {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		holds = append(holds, parseHold(owner, value))
	}
	return holds, nil
}

func parseHold(owner string, value []byte) Hold {
	var r holdRecord
	if json.Unmarshal(value, &r) != nil {
		return Hold{Owner: owner, Reason: "(unreadable)"}
	}
	h := Hold{Owner: owner, Reason: r.Reason, User: r.User, Since: r.Since, While: r.While, record: r}
	if r.Until != 0 {
		h.Until = time.Now().Add(time.Duration(r.Until - bootNow()))
	}
	return h
}

// owners lists whose holds are among the attributes, in alphabetical order.
func owners(attrs []string) (owners []string) {
	for _, name := range attrs {
		if owner, ok := strings.CutPrefix(name, holdPrefix); ok {
			owners = append(owners, owner)
		}
	}
	slices.Sort(owners)
	return owners
}

// By names the owner of the hold that Freeze puts on the group. The hold
// replaces an earlier one of the same owner.
func By(owner string) FreezeOption { return func(o *freezeOptions) { o.owner = owner } }

// Why gives the hold's reason, for others to read.
// Given, and be it empty, it has even a default hold recorded: who and since when.
func Why(reason string) FreezeOption {
	return func(o *freezeOptions) { o.record.Reason, o.recorded = reason, true }
}

// For ends the hold by itself after d, measured by a clock that runs on while
// the machine sleeps and that nobody can set.
func For(d time.Duration) FreezeOption {
	return func(o *freezeOptions) { o.record.Until = bootNow() + int64(max(d, 1)) }
}

// While ends the hold by itself when process pid ends, which must be alive now.
func While(pid int) FreezeOption { return func(o *freezeOptions) { o.record.While = pid } }

func (r holdRecord) lease() bool { return r.Until != 0 || r.While != 0 }

// named says whether the hold must be recorded.
func (o *freezeOptions) named() bool {
	return o.owner != DefaultOwner || o.recorded || o.record != holdRecord{}
}

// checkHold completes the record, or says why the hold cannot be.
func (o *freezeOptions) checkHold() error {
	if o.owner == "" {
		o.owner = DefaultOwner
	}
	if !o.named() {
		return nil
	}
	if err := CheckOwner(o.owner); err != nil {
		return err
	}
	if pid := o.record.While; pid != 0 {
		s, err := proc.ReadStat(pid)
		if err != nil || s.State == 'Z' {
			return fmt.Errorf("%w: %d, with which the hold would end", ErrNoTask, pid)
		}
		o.record.Start = s.Start
	}
	o.stamp()
	return nil
}

func (o *freezeOptions) stamp() {
	o.record.User = unix.Getuid()
	o.record.Since = time.Now().UTC()
}

// ask puts the hold on one group and asks it to freeze: attribute first, then
// state, so that whoever thaws can see it in time. added is false when the
// owner held the group before.
func (g *Group) ask(o *freezeOptions) (added bool, err error) {
	if !o.named() {
		on := false
		if o.putBack || o.recant {
			if on, err = g.cg.Freezing(); err != nil {
				return false, err
			}
		}
		if done, err := g.setUnheld(true); done || err != nil {
			return !on, err
		}
	}
	defer g.lock()()
	attrs, err := g.listAttrs()
	if err != nil {
		return false, err
	}
	on, err := g.cg.Freezing()
	if err != nil {
		return false, err
	}
	if added, err = g.addHold(o, owners(attrs), on); err != nil {
		return added, err
	}
	return added, g.cg.SetFreezing(true)
}

// setUnheld sets the self state of a group on which there are no holds, before
// and afterwards; done is false when there are. It needs no lock: whoever takes
// a hold writes it down first and looks at the self state then, and here it is
// the other way round, so that one of two at the same moment sees the other.
func (g *Group) setUnheld(on bool) (done bool, err error) {
	if held, err := g.held(); held || err != nil {
		return false, err
	}
	if err := g.cg.SetFreezing(on); err != nil {
		return false, err
	}
	held, err := g.held()
	if held && !on {
		return false, g.cg.SetFreezing(true)
	}
	return !held, err
}

// addHold writes the attributes that the hold needs. on is the self state.
func (g *Group) addHold(o *freezeOptions, owners []string, on bool) (added bool, err error) {
	if !on { // whatever is found on a thawed group is overridden: it goes
		for _, owner := range owners {
			if err := g.removeAttr(holdPrefix + owner); err != nil {
				return false, err
			}
		}
		owners = nil
	}
	recorded := len(owners) > 0
	if on && !recorded { // the default hold, which needs no attribute while it is alone
		owners = []string{DefaultOwner}
	}
	added = !slices.Contains(owners, o.owner)
	if !o.named() && (len(owners) == 0 || len(owners) == 1 && !added) {
		return added, nil
	}
	if err := g.setHold(o); err != nil || recorded || o.owner == DefaultOwner {
		return added, err
	}
	if on, err = g.cg.Freezing(); err != nil || !on { // anew: see setUnheld
		return added, err
	}
	return added, g.setDefaultHold()
}

// setDefaultHold writes down the default hold of somebody else.
func (g *Group) setDefaultHold() error {
	raw := freezeOptions{owner: DefaultOwner}
	raw.stamp()
	return g.setHold(&raw)
}

func (g *Group) setHold(o *freezeOptions) error {
	value, err := json.Marshal(o.record)
	if err == nil {
		err = g.setAttr(holdPrefix+o.owner, value)
	}
	switch err {
	case unix.ENOSPC, unix.E2BIG, unix.EDQUOT:
		return fmt.Errorf("%w: the group has no room for another hold", err)
	case unix.EOPNOTSUPP:
		return fmt.Errorf("%w: holds need a kernel that keeps user.* attributes of groups (Linux 5.7)", ErrUnsupported)
	}
	return err
}

// A ThawOption changes what Thaw takes off.
type ThawOption func(*thawOptions)

type thawOptions struct {
	owner string
	all   bool
	ended bool // only the leases that are over
}

func thawing(opts []ThawOption) thawOptions {
	if len(opts) == 0 { // no memory is made for it: see plain
		return thawOptions{owner: DefaultOwner}
	}
	o := thawOptions{owner: DefaultOwner}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// HeldBy takes that owner's hold off, not the default one.
func HeldBy(owner string) ThawOption { return func(o *thawOptions) { o.owner = owner } }

// AllHolds takes all holds off, whoever's they are.
func AllHolds() ThawOption { return func(o *thawOptions) { o.all = true } }

// A HeldError is what Thaw returns when it took off what it should, and the
// group stays frozen, because others hold it. It matches ErrHeld.
type HeldError struct {
	Holds []Hold // of the others
	Took  bool   // a hold was taken off; it is false when there was none to take
}

func (e *HeldError) Error() string {
	var who []string
	for _, h := range e.Holds {
		s := h.Owner
		if h.Reason != "" {
			s += " (" + h.Reason + ")"
		}
		who = append(who, s)
	}
	return "it stays frozen: still held by " + strings.Join(who, ", ")
}

// Is matches ErrHeld and its errno.
func (e *HeldError) Is(target error) bool {
	return target == ErrHeld || errors.Is(ErrHeld, target)
}

// Thaw takes the default hold off the group, and lets it run when no other is
// left, which takes effect at once. When others hold it, the error is a
// HeldError and it stays frozen. Its tasks also stay frozen while an ancestor is
// freezing, which is no error; States tells.
func (g *Group) Thaw(opts ...ThawOption) error {
	o := thawing(opts)
	if o.owner != DefaultOwner {
		if err := CheckOwner(o.owner); err != nil {
			return opError("thaw", g.name, err)
		}
	}
	return opError("thaw", g.name, g.fresh(func() error { return g.release(o) }))
}

// release takes holds off. When nothing else holds the group it is thawed
// first and the attributes go afterwards: a crash in between leaves it thawed,
// not frozen with nobody to answer for it.
func (g *Group) release(o thawOptions) error {
	if o.owner == DefaultOwner && !o.ended {
		if done, err := g.setUnheld(false); done || err != nil {
			return err
		}
	}
	defer g.lock()()
	attrs, err := g.listAttrs()
	if err != nil {
		return err
	}
	holds, err := g.readHolds(attrs)
	if err != nil {
		return err
	}
	if len(holds) > 0 {
		on, err := g.cg.Freezing()
		if err != nil {
			return err
		}
		o.all = o.all || !on // overridden holds hold nothing
	}
	mine := func(h Hold) bool { return o.all || h.Owner == o.owner }
	if o.ended && !slices.ContainsFunc(holds, func(h Hold) bool { return h.record.over() }) {
		return nil // somebody was faster
	}
	if !o.ended && o.owner != DefaultOwner && !o.all && !slices.ContainsFunc(holds, mine) {
		return fmt.Errorf("%w: %s", ErrNoHold, o.owner)
	}
	stays := func(h Hold) bool { return !mine(h) && !h.record.over() }
	thaws := !slices.ContainsFunc(holds, stays)
	if thaws {
		if err := g.run(attrs); err != nil {
			return err
		}
	}
	for _, h := range holds {
		if !stays(h) {
			if err := g.removeAttr(holdPrefix + h.Owner); err != nil {
				return err
			}
		}
	}
	return g.settle(thaws, slices.ContainsFunc(holds, mine))
}

// settle looks once more, in case the lock could not be had: who took a hold
// meanwhile gets the freeze back, and of two who took theirs off at the same
// moment, each in sight of the other's, the second thaws.
func (g *Group) settle(thawed, took bool) error {
	left, err := g.holds()
	if err != nil {
		return err
	}
	switch {
	case len(left) == 0 && !thawed:
		attrs, err := g.listAttrs()
		if err != nil {
			return err
		}
		return g.run(attrs)
	case len(left) > 0 && thawed:
		if err := g.cg.SetFreezing(true); err != nil {
			return err
		}
	}
	if len(left) > 0 {
		return &HeldError{left, took}
	}
	return nil
}
