package invisible

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A Wait is a system call that a task sleeps in. It is for those who take the call
// to another task (a checkpoint that is restored), where the kernel knows nothing
// of it: neither what is left of its timeout nor, when it was interrupted before,
// which call it is.
type Wait struct {
	Call  int           // its number, also when it was interrupted before
	Timed bool          // it has a timeout that is known
	Until time.Duration // by CLOCK_MONOTONIC, when it is Timed
}

// Waits looks at running tasks, like Prepare. It leaves out those that are in no
// call of which anything need be known. A timeout is taken for longer than it is
// when the program did not want to know (rem of nanosleep) what was left of it at
// an earlier interruption.
func Waits(tids []int) map[int]Wait {
	waits := map[int]Wait{}
	c := clocks{behind: map[int]time.Duration{}}
	for _, tid := range tids {
		in, where := callIn(tid)
		if where != inCall {
			continue
		}
		w := Wait{Call: in.nr}
		if in.nr == restartCall {
			w.Call = restartedCall(proc.WaitChannel(tid), uint64(in.args[0]))
		}
		k, ok := sleeps[w.Call]
		if !ok {
			k, ok = kinds[w.Call]
		}
		if !ok || k.left != nil {
			continue
		}
		if limit, need := k.limit(tid, in); need == inTime {
			if nap, ok := napOf(strconv.Itoa(tid)); ok {
				if begin, ok := c.time(tid, nap); ok {
					w.Timed, w.Until = true, begin+limit
				}
			}
		}
		if w.Timed || in.nr == restartCall {
			waits[tid] = w
		}
	}
	return waits
}

// Interrupted is Waits for one stopped tracee whose call is to be started again by
// the kernel, and of which no more is known than what can be seen now: which call it
// is, and what was left of it if the program wants to know that.
func Interrupted(tid int, regs *ptrace.Regs) (w Wait, ok bool) {
	c := callOf(regs)
	if !interrupted(regs.Result()) {
		return w, false
	}
	restarted := c.nr == restartCall
	if restarted {
		if c.nr = guessCall(tid, regs); c.nr == 0 {
			return w, false
		}
	}
	w.Call = c.nr
	if rest, ok := restOf[c.nr]; ok && c.args[rest] != 0 {
		if left, need := readTime(tid, c.args[rest], time.Nanosecond); need == inTime {
			w.Timed, w.Until = true, now()+left
		}
	}
	return w, restarted || w.Timed
}

// Left is what is left of the timeout now, at least 0.
func (w Wait) Left() time.Duration { return max(0, w.Until-now()) }

// Expect has the Minder end the call of a stopped tracee, which is to start again
// by the registers that it has, after so much time.
//
// The error is EINVAL for calls of which it is not known what they return then.
func (m *Minder) Expect(tid int, left time.Duration) error {
	regs, err := ptrace.Registers(tid)
	if err != nil {
		return err
	}
	c := callOf(regs)
	k, ok := sleeps[c.nr]
	if !ok {
		k, ok = kinds[c.nr]
	}
	if !ok || k.timedOut == nil || k.left != nil {
		return unix.EINVAL
	}
	m.calls[tid] = &minded{kind: k, call: c, deadline: now() + left + slack}
	return ptrace.SetOptions(tid, options)
}

// leftOf is a timeout of which the kernel has written to another argument, if
// there is one, what was left when it was interrupted before.
func leftOf(timeout, rest int) func(int, call) (time.Duration, need) {
	return func(tid int, c call) (time.Duration, need) {
		if c.nr == restartCall && c.args[rest] != 0 {
			return readTime(tid, c.args[rest], time.Nanosecond)
		}
		return readTime(tid, c.args[timeout], time.Nanosecond)
	}
}

// relative is for calls with flags as their second argument, of which 1 says that
// the timeout is a time of day.
func relative(limit func(int, call) (time.Duration, need)) func(int, call) (time.Duration, need) {
	return func(tid int, c call) (time.Duration, need) {
		clock := int32(c.args[0])
		if c.args[1]&1 != 0 || clock < 0 || clock == unix.CLOCK_PROCESS_CPUTIME_ID {
			return 0, restart
		}
		return limit(tid, c)
	}
}

// futexLimit is the timeout of FUTEX_WAIT; that of other waits is a time of day.
func futexLimit(tid int, c call) (time.Duration, need) {
	if c.args[1]&^futexFlags != futexWait {
		return 0, restart
	}
	return readTime(tid, c.args[3], time.Nanosecond)
}
