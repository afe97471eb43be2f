package invisible

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
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
