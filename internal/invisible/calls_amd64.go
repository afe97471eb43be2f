package invisible

import (
	"encoding/binary"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/ptrace"
)

// kinds are the calls that fail with EINTR when a task is frozen in them, or
// that sleep too long afterwards, as docs/transparency.md has measured them.
var kinds = map[int]kind{
	unix.SYS_EPOLL_WAIT:      {limit: millis(3), timedOut: returns(0)},
	unix.SYS_EPOLL_PWAIT:     {limit: millis(3), timedOut: returns(0)},
	unix.SYS_EPOLL_PWAIT2:    {limit: timespec(3), timedOut: returns(0)},
	unix.SYS_SELECT:          remaining(4, time.Microsecond),
	unix.SYS_PSELECT6:        remaining(4, time.Nanosecond),
	unix.SYS_PPOLL:           remaining(2, time.Nanosecond),
	unix.SYS_IO_GETEVENTS:    {limit: timespec(4), timedOut: returns(0)},
	unix.SYS_IO_PGETEVENTS:   {limit: timespec(4), timedOut: returns(0)},
	unix.SYS_IO_URING_ENTER:  {limit: ringLimit, timedOut: returns(-int(unix.ETIME))},
	unix.SYS_SEMOP:           {limit: unlimited, timedOut: again},
	unix.SYS_SEMTIMEDOP:      {limit: timespec(3), timedOut: again},
	unix.SYS_RT_SIGTIMEDWAIT: {limit: timespec(2), timedOut: again},
	unix.SYS_READ:            {limit: receiving(0), timedOut: again},
	unix.SYS_READV:           {limit: receiving(0), timedOut: again},
	unix.SYS_RECVFROM:        {limit: receiving(0), timedOut: again},
	unix.SYS_RECVMSG:         {limit: receiving(0), timedOut: again},
	unix.SYS_RECVMMSG:        {limit: receiving(0), timedOut: again},
	unix.SYS_ACCEPT:          {limit: receiving(0), timedOut: again},
	unix.SYS_ACCEPT4:         {limit: receiving(0), timedOut: again},
	unix.SYS_WRITE:           {limit: sending(0), timedOut: again},
	unix.SYS_WRITEV:          {limit: sending(0), timedOut: again},
	unix.SYS_SENDTO:          {limit: sending(0), timedOut: again},
	unix.SYS_SENDMSG:         {limit: sending(0), timedOut: again},
	unix.SYS_SENDMMSG:        {limit: sending(0), timedOut: again},
	unix.SYS_CONNECT:         {limit: sending(0), timedOut: connecting},
	unix.SYS_SENDFILE:        {limit: sending(0), timedOut: again},
	unix.SYS_SPLICE:          {limit: either(receiving(0), sending(2)), timedOut: again},
	unix.SYS_FUTEX:           waking(futexWoken),
	unix.SYS_FUTEX_WAITV:     waking(futexvWoken),
	unix.SYS_FUTEX_WAIT:      waking(futex2Woken),
}

// sleeps are calls with a timeout of which the kernel itself knows what is left
// when it starts them again: by restart_syscall, which loses their number.
var sleeps = map[int]kind{
	unix.SYS_NANOSLEEP:       {limit: leftOf(0, 1), timedOut: returns(0)},
	unix.SYS_CLOCK_NANOSLEEP: {limit: relative(leftOf(2, 3)), timedOut: returns(0)},
	unix.SYS_POLL:            {limit: millis(2), timedOut: returns(0)},
	unix.SYS_FUTEX:           {limit: futexLimit, timedOut: returns(-int(unix.ETIMEDOUT))},
}

// restOf are the arguments to which the kernel writes what is left of a sleep
// when it is interrupted.
var restOf = map[int]int{unix.SYS_NANOSLEEP: 1, unix.SYS_CLOCK_NANOSLEEP: 3}

// guessCall finds which of sleeps a stopped task is in that has been started again
// before: by the instruction before the call, if that sets its number, or else by its
// arguments: of those that they fit, the one for which they would be a coincidence. 0
// when they fit none.
func guessCall(tid int, r *ptrace.Regs) int {
	var code [7]byte // mov $number, %eax; syscall
	if ptrace.Peek(tid, r.PC()-uintptr(len(code)), code[:]) == nil && code[0] == 0xb8 {
		nr := int(binary.LittleEndian.Uint32(code[1:5]))
		if _, ok := sleeps[nr]; ok {
			return nr
		}
	}
	isTime := func(address uintptr) bool {
		_, n := readTime(tid, address, time.Nanosecond)
		return n == inTime
	}
	readable := func(address uintptr) bool { return peek(tid, address, make([]byte, 1)) == nil }
	a := [4]uintptr{r.Arg(0), r.Arg(1), r.Arg(2), r.Arg(3)}
	const lowest = 1 << 16 // address that a program can have
	switch {
	case readable(a[0]) && a[1]&^futexFlags == futexWait && isTime(a[3]) && !futexChanged(tid, a[0], uint32(a[2])):
		return unix.SYS_FUTEX
	case (a[0] < lowest || a[0]>>31 == 1<<33-1) && a[1] == 0 && isTime(a[2]):
		return unix.SYS_CLOCK_NANOSLEEP
	case isTime(a[0]) && (a[1] == 0 || readable(a[1])):
		return unix.SYS_NANOSLEEP
	case a[1] < lowest && (a[1] == 0 || readable(a[0])) && int32(a[2]) > 0 && a[2]>>32 == 0:
		return unix.SYS_POLL
	}
	return 0
}

const restartCall = unix.SYS_RESTART_SYSCALL

// restartedCall tells apart the calls of sleeps, by where a task waits, and by the
// call's first argument: the number of a clock, or an address. 0 when it is none.
func restartedCall(waits string, first uint64) int {
	const lowest = 1 << 16 // address that a program can have
	switch {
	case waits == "":
		return 0
	case strings.HasPrefix(waits, "futex"):
		return unix.SYS_FUTEX
	case strings.HasPrefix(waits, "poll_schedule_timeout"):
		return unix.SYS_POLL
	case first < lowest || first>>31 == 1<<33-1:
		return unix.SYS_CLOCK_NANOSLEEP
	}
	return unix.SYS_NANOSLEEP
}

var again = returns(-int(unix.EAGAIN))

func remaining(arg int, unit time.Duration) kind {
	r := &remainder{arg, unit}
	return kind{limit: r.read, timedOut: returns(0), left: r}
}
