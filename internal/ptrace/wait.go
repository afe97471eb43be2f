package ptrace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Status is what waiting for a tracee told. The zero value is a task that
// runs.
type Status struct {
	how  int32 // CLD_ of waitid(2)
	code int32
}

// The codes of a SIGCHLD; see waitid(2).
const (
	cldExited  = 1
	cldKilled  = 2
	cldDumped  = 3
	cldTrapped = 4
	cldStopped = 5
)

// Stopped says whether the task is in a stop.
func (s Status) Stopped() bool { return s.how == cldTrapped || s.how == cldStopped }

// Ended says whether the task is gone.
func (s Status) Ended() bool { return s.how == cldExited || s.how == cldKilled || s.how == cldDumped }

// Event is the PTRACE_EVENT_ that stopped the task, 0 when it stopped on its way
// to take a signal.
func (s Status) Event() int {
	if !s.Stopped() {
		return 0
	}
	return int(s.code >> 8)
}

// Signal is the signal that the task was about to take when it stopped, which
// Detach and Continue have to hand back to it; 0 in all other stops.
func (s Status) Signal() unix.Signal {
	if !s.Stopped() || s.Event() != 0 {
		return 0
	}
	return unix.Signal(s.code & 0x7f)
}

// GroupStop says whether the task stands still also because its process was
// stopped by SIGSTOP or the like, so that it stays so when it is let go.
func (s Status) GroupStop() bool {
	return s.Event() == unix.PTRACE_EVENT_STOP && unix.Signal(s.code&0xff) != unix.SIGTRAP
}

// ExitStatus is, of a task that ended, its status, or the signal that ended it.
func (s Status) ExitStatus() (status int, signal unix.Signal) {
	if s.how == cldExited {
		return int(s.code), 0
	}
	return 0, unix.Signal(s.code)
}

// Wait waits until the tracee stops or ends. The error is ECHILD when the
// caller's process does not trace it: it is gone, or took another's TID in exec.
//
// A stop is only looked at, never consumed: the kernel forgets the signal that
// a task is about to take when its tracer, having consumed the stop, dies. (Any
// wait for all children consumes stops of tracees, also one that does not ask for
// them; so a tracer must not do that.) An end is reaped, and so is the stop in
// exec, before which the kernel allows nothing: Poll sees that once.
func Wait(tid int) (Status, error) { return wait(tid, 0) }

// Poll is Wait without waiting: the status of a task that runs is zero.
func Poll(tid int) (Status, error) { return wait(tid, unix.WNOHANG) }

// Reap is Poll for who wants to know of ends only: it leaves even the stop in
// exec to a later Poll. ended is false when the task has not, or is no tracee.
func Reap(tid int) (s Status, ended bool) {
	s, err := waitid(tid, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT|unix.WALL|unix.WNOHANG)
	if err != nil || !s.Ended() {
		return Status{}, false
	}
	s, err = waitid(tid, unix.WEXITED|unix.WALL|unix.WNOHANG)
	return s, err == nil && s.Ended()
}

func wait(tid, flags int) (Status, error) {
	s, err := waitid(tid, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT|unix.WALL|flags)
	if err == nil && (s.Ended() || s.Event() == unix.PTRACE_EVENT_EXEC) {
		s, err = waitid(tid, unix.WSTOPPED|unix.WEXITED|unix.WALL|unix.WNOHANG)
	}
	return s, err
}

// siginfo is the part of a siginfo_t that waitid fills in.
type siginfo struct {
	signo, errno, code int32
	child              struct {
		_      [0]uintptr // the union is aligned to this
		pid    int32
		uid    uint32
		status int32
	}
	_ [100]byte
}

func waitid(tid, flags int) (Status, error) {
	for {
		var info siginfo
		var errno unix.Errno
		if flags&unix.WNOHANG != 0 {
			_, _, errno = unix.RawSyscall6(unix.SYS_WAITID, unix.P_PID, uintptr(tid), uintptr(unsafe.Pointer(&info)), uintptr(flags), 0, 0)
		} else {
			_, _, errno = unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(tid), uintptr(unsafe.Pointer(&info)), uintptr(flags), 0, 0)
		}
		switch errno {
		case 0:
			return Status{info.code, info.child.status}, nil
		case unix.EINTR:
		default:
			return Status{}, errno
		}
	}
}
