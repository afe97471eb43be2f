package invisible

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// What a system call that was interrupted returns to the kernel itself, which
// then decides whether it starts the call again (include/linux/errno.h).
const (
	restartNoHandler = -514 // ERESTARTNOHAND: unless a handler ran
	restartFirst     = -512
	restartLast      = -516
)

func interrupted(result int) bool {
	return result == -int(unix.EINTR) || result <= restartFirst && result >= restartLast
}

// A Minder has the calls of stopped tracees start again, and sees to it that
// those with a timeout end in time. It belongs to the thread that traces them,
// like everything that ptrace does. Session.Thaw has one of its own; a tracer that
// freezes tasks by holding them keeps one for good, calls Resume for each task
// that it thaws, and from then on hands it the stops of tasks that it minds,
// unless they are frozen again, and its time.
type Minder struct {
	calls map[int]*minded
	naps  int
	over  bool // see Abandon
}

// A minded call has a timeout and was started again.
type minded struct {
	kind
	call
	deadline  time.Duration
	doubt     *doubt
	entered   bool // it has started again and not yet returned
	timeUp    bool // it was interrupted because its time is up
	submitted int  // see resubmit
}

// NewMinder returns a Minder that minds nothing yet.
func NewMinder() *Minder { return &Minder{calls: map[int]*minded{}, naps: napsHeld} }

// Len is the number of calls that are minded.
func (m *Minder) Len() int { return len(m.calls) }

// Tasks lists the tasks whose calls are minded.
func (m *Minder) Tasks() []int { return slices.Collect(maps.Keys(m.calls)) }

// Minds says whether the call of a task is minded: the task is a tracee then.
func (m *Minder) Minds(tid int) bool { return m.calls[tid] != nil }

// Resume thaws a tracee that was frozen by being held in a stop: its call starts
// again, and the task goes on, detached or minded. The error is ESRCH when it has
// left that stop, because it was killed or another thread's exec took its place.
func (m *Minder) Resume(tid int, status ptrace.Status, s *Session) error {
	if m.Minds(tid) {
		return m.Handle(tid, status)
	}
	if err := m.Amend(tid, status, s); err != nil {
		s.skip(tid, err.Error())
	}
	if m.Minds(tid) {
		_ = ptrace.SetOptions(tid, options)
	}
	return m.Release(tid, status.Signal())
}

// Forget tells that a task is gone.
func (m *Minder) Forget(tid int) { delete(m.calls, tid) }

// Amend changes a tracee that was stopped inside of a call, while it was frozen
// or by an interrupt, so that the call starts again when it goes on. A task that
// stands still because of SIGSTOP, or is about to, is left as it is: its call
// fails without a freeze, too. The error says why a task could not be amended.
func (m *Minder) Amend(tid int, status ptrace.Status, s *Session) error {
	if status.GroupStop() || status.Signal() != 0 {
		return nil
	}
	regs, err := ptrace.Registers(tid)
	if err == unix.EOPNOTSUPP {
		return fmt.Errorf("%w: it runs 32-bit code", err)
	}
	if err != nil {
		return err
	}
	c := callOf(regs)
	k, ok := kinds[c.nr]
	if !ok || stopIsPending(tid) {
		return nil
	}
	result := regs.Result()
	switch {
	case result == -int(unix.EINTR):
	case result == restartNoHandler && k.left == nil: // its timeout starts anew
	case k.woken != nil && interrupted(result):
		if result, ok := k.woken(tid, c); ok {
			regs.SetResult(result)
			return ptrace.SetRegisters(tid, regs)
		}
		return nil
	case k.left != nil && interrupted(result):
		shorten(tid, c, k.left, s)
		return nil
	case result > 0 && c.nr == unix.SYS_IO_URING_ENTER && unfinished(tid, c):
		return m.resubmit(tid, regs, c, k, s)
	default:
		return nil
	}
	regs.SetResult(restartNoHandler)
	if err := ptrace.SetRegisters(tid, regs); err != nil {
		return err
	}
	m.mind(tid, c, k, s, 0)
	return nil
}

// shorten replaces what the kernel says was left of a timeout when the task was
// frozen by what is left now.
func shorten(tid int, c call, r *remainder, s *Session) {
	left, n := r.read(tid, c)
	if n != inTime || s.Restart {
		return
	}
	deadline := s.at + left
	if n, ok := s.notes[tid]; ok && n.nr == c.nr && n.need == inTime && n.deadline-left >= s.at {
		deadline = n.deadline // it is not of an earlier call, by what the kernel says
	}
	r.write(tid, c, max(0, deadline-now()))
}

func (m *Minder) mind(tid int, c call, k kind, s *Session, submitted int) {
	limit, n := k.limit(tid, c)
	timed := n == inTime && !s.Restart
	if !timed && submitted == 0 {
		return
	}
	minded := &minded{kind: k, call: c, deadline: never, submitted: submitted}
	if timed {
		minded.deadline = s.at + limit + slack
		if n, ok := s.notes[tid]; ok && n.nr == c.nr && n.need == inTime {
			minded.doubt = &doubt{minded.deadline, n.switches + m.naps}
			minded.deadline = n.deadline + slack
		}
	}
	m.calls[tid] = minded
}

// A doubt is whether the call is still the one that was seen before the freeze,
// or whether its task was quick enough to return and make the same call again. A
// look at how often the task has slept settles it, but it takes 15 µs, so it
// waits until all tasks are on their way.
type doubt struct {
	deadline time.Duration // if it is not
	switches int           // the most that there can be if it is
}

func (c *minded) settle(tid int) {
	if sleep, ok := napOf(strconv.Itoa(tid)); ok && sleep.switches > c.doubt.switches {
		c.deadline = c.doubt.deadline
	}
	c.doubt = nil
}

// Settle settles all doubts at once, while the tasks are held where they were
// amended: for a tracer that has them do other things before they go on.
func (m *Minder) Settle() {
	for tid, c := range m.calls {
		if c.doubt != nil {
			c.doubt.switches -= m.naps - 1 // it has slept in the stop only
			c.settle(tid)
		}
	}
}

// How often a task sleeps from its call to the same call that started again: in
// the freezer, in the stop by an interrupt, in the stop at the call's entry, and
// in the call.
const (
	napsFrozen = 4
	napsHeld   = 3 // without the freezer
)

// slack is what the kernel adds to most timeouts. It makes up for the little by
// which a call's begin can be estimated too early.
const slack = 50 * time.Microsecond

// lastLook is the time that a call has to see whether it must sleep.
const lastLook = time.Millisecond

const never = time.Duration(1<<63 - 1)

// Release lets a stopped tracee go on, and take a signal if it was about to: for
// good, or until its call returns.
func (m *Minder) Release(tid int, signal unix.Signal) error {
	if !m.Minds(tid) {
		return ptrace.Detach(tid, signal)
	}
	return m.goOn(tid, signal)
}

// goOn lets a minded task run to its next stop.
func (m *Minder) goOn(tid int, signal unix.Signal) error {
	err := ptrace.NextSyscall(tid, signal)
	if err != nil {
		m.Forget(tid)
	}
	return err
}

// letGo ends the minding of a task.
func (m *Minder) letGo(tid int, signal unix.Signal) error {
	m.Forget(tid)
	return ptrace.Detach(tid, signal)
}

// Expire interrupts the calls whose time is up, and returns how long there is
// until the next one. A call that has not started again yet, because its task is
// frozen once more, is left alone until it has.
func (m *Minder) Expire() time.Duration {
	next, t := never, now()
	for tid, c := range m.calls {
		if c.entered && c.doubt != nil {
			c.settle(tid)
		}
		switch {
		case !c.entered || c.timeUp || c.deadline == never:
		case c.deadline > t:
			next = min(next, c.deadline-t)
		case ptrace.Interrupt(tid) != nil:
			m.Forget(tid)
		default:
			c.timeUp = true
		}
	}
	return next
}

// Abandon has all minded tasks stop. Handle then lets go of each, in a call that
// may end late.
func (m *Minder) Abandon() {
	m.over = true
	for tid, c := range m.calls {
		c.deadline, c.doubt = never, nil
		if ptrace.Interrupt(tid) != nil {
			m.Forget(tid)
		}
	}
}

// Handle attends to a stop of a minded task, and to no other. Its error is that of
// Resume.
func (m *Minder) Handle(tid int, status ptrace.Status) error {
	c := m.calls[tid]
	switch {
	case c == nil:
		return nil
	case status.GroupStop(): // the process was stopped: its call fails, as always
		c.finish(tid, -int(unix.EINTR))
		return m.letGo(tid, 0)
	case status.Event() == 0:
	case m.over:
		c.finish(tid, restartNoHandler)
		return m.letGo(tid, 0)
	default: // it is frozen again
		return m.goOn(tid, 0)
	}
	switch where(tid) {
	case atEntry:
		// A call whose time was up before it could start again still looks at
		// what it waits for, as it would have: what came meanwhile came in time.
		c.entered = true
		c.deadline = max(c.deadline, now()+lastLook)
		return m.goOn(tid, 0)
	case atExit:
		return m.returned(tid, c)
	default:
		return m.signaled(tid, c, status.Signal())
	}
}

// returned attends to a task whose call is about to return. Only a result that
// says that the call was interrupted is of interest: by the deadline, by a signal
// or by a freeze.
func (m *Minder) returned(tid int, c *minded) error {
	regs, err := ptrace.Registers(tid)
	switch {
	case err != nil:
		m.Forget(tid)
		return err
	case !interrupted(regs.Result()):
		if c.submitted > 0 {
			c.finish(tid, 0)
		}
		return m.letGo(tid, 0)
	case c.timeUp:
		c.finish(tid, c.timedOut(tid, c.call))
		return m.letGo(tid, 0)
	case m.over:
		c.finish(tid, restartNoHandler)
		return m.letGo(tid, 0)
	default:
		c.entered = false
		if regs.Result() == -int(unix.EINTR) {
			regs.SetResult(restartNoHandler)
			_ = ptrace.SetRegisters(tid, regs)
		}
		return m.goOn(tid, 0)
	}
}

// signaled attends to a task that is about to take a signal. If a handler is to
// run, the call fails with EINTR and is not started again. Other signals end the
// task, stop it, or would never have been seen if it were not traced.
func (m *Minder) signaled(tid int, c *minded, signal unix.Signal) error {
	if !caught(tid, signal) {
		return m.goOn(tid, signal)
	}
	if c.submitted > 0 {
		c.finish(tid, 0)
	}
	return m.letGo(tid, signal)
}

// finish sets what the call returns.
func (c *minded) finish(tid, result int) {
	regs, err := ptrace.Registers(tid)
	if err != nil {
		return
	}
	if c.submitted > 0 {
		result = c.submitted
		regs.SetArg(1, c.args[1])
	}
	regs.SetResult(result)
	_ = ptrace.SetRegisters(tid, regs)
}

// caught says whether a task has a handler for a signal.
func caught(tid int, signal unix.Signal) bool {
	set, ok := new(big.Int).SetString(proc.Status(tid, "SigCgt"), 16)
	return ok && signal > 0 && set.Bit(int(signal)-1) == 1
}

// unfinished says whether an io_uring_enter that returned has fewer completions
// to show than it was to wait for.
func unfinished(tid int, c call) bool {
	wanted := int(uint32(c.args[2]))
	if c.args[3]&enterGetEvents == 0 || wanted == 0 {
		return false
	}
	head, tail, ok := completions(tid, int(int32(c.args[0])))
	return ok && int(tail-head) < wanted
}

// resubmit has an io_uring_enter that submitted something and then did not wait
// for completions start again without submitting, and minds it until it returns
// the number of what was submitted, as it would have.
//
// This is the one case in which losing the tracer shows: the call then returns
// 0, or EINTR, for what was submitted; the ring itself says what was.
func (m *Minder) resubmit(tid int, regs *ptrace.Regs, c call, k kind, s *Session) error {
	submitted := regs.Result()
	regs.SetArg(1, 0)
	regs.SetResult(restartNoHandler)
	if err := ptrace.SetRegisters(tid, regs); err != nil {
		return err
	}
	m.mind(tid, c, k, s, submitted)
	return nil
}

// completions reads the two ends of a ring's completion queue.
func completions(tid, fd int) (head, tail uint32, ok bool) {
	text, err := kernfs.ReadFile(proc.Path(tid, fmt.Sprintf("fdinfo/%d", fd)))
	if err != nil {
		return 0, 0, false
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "CqHead":
			_, _ = fmt.Sscan(value, &head)
			found++
		case "CqTail":
			_, _ = fmt.Sscan(value, &tail)
			found++
		}
	}
	return head, tail, found == 2
}
