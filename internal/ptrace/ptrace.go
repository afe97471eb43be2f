// Package ptrace holds tasks still by ptrace(2), and looks into them. It is
// only what the system call offers, made safe to use: whom to hold, and for how
// long, is decided elsewhere.
//
//	err := ptrace.Seize(tid, ptrace.Follow) // it runs on
//	err = ptrace.Interrupt(tid)
//	s, err := ptrace.Wait(tid)              // s.Stopped()
//	regs, err := ptrace.Registers(tid)
//	err = ptrace.Detach(tid, s.Signal())    // it runs on, as if nothing had been
//
// The kernel ties a tracee to one thread of its tracer: all calls for it, but
// for Wait, must come from the goroutine that seized it, which has called
// runtime.LockOSThread. When that thread ends, however it ends, the kernel lets
// go of all its tracees, and they run on. Nothing here asks for PTRACE_O_EXITKILL.
//
// All names are those of tasks: a process is seized thread by thread.
package ptrace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Follow are the options with which children and new threads of a tracee become
// tracees themselves, stopped before their first instruction, and with which
// an exec is told.
const Follow = unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC

// OnCall, when set, is called before and after each ptrace call, and each Poke. It
// is there for tests that kill the tracer at each of them.
var OnCall func(before bool)

func call(request, tid int, addr, data uintptr) error {
	if OnCall != nil {
		OnCall(true)
		defer OnCall(false)
	}
	do := unix.RawSyscall6
	if request == unix.PTRACE_SEIZE { // which waits for an exec that is under way
		do = unix.Syscall6
	}
	_, _, errno := do(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	return failed(errno)
}

// fill is call with the address of something that is read or written.
func fill(request, tid int, addr uintptr, data unsafe.Pointer) error {
	if OnCall != nil {
		OnCall(true)
		defer OnCall(false)
	}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, uintptr(data), 0, 0)
	return failed(errno)
}

func failed(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// Seize makes the caller's thread the tracer of a task, which runs on. The
// options are those of PTRACE_SETOPTIONS in ptrace(2).
//
// The error is ESRCH when there is no such task, and EPERM when the caller may
// not trace it, when somebody does already, and when it is dead.
//
// While a thread of the task's process executes execve, Seize waits for it, and
// that exec waits until the tracees among the other threads are reaped: so
// somebody must Poll them meanwhile, on another thread.
func Seize(tid, options int) error {
	return call(unix.PTRACE_SEIZE, tid, 0, uintptr(options))
}

// Interrupt has a tracee stop as soon as it can. It does nothing to one that is
// stopped. A sleeping system call is left, to be started again by the kernel.
func Interrupt(tid int) error { return call(unix.PTRACE_INTERRUPT, tid, 0, 0) }

// Detach lets a stopped tracee go; it takes the signal first, when that is not
// zero. The error is ESRCH when it is not stopped, or not there.
func Detach(tid int, signal unix.Signal) error {
	return call(unix.PTRACE_DETACH, tid, 0, uintptr(signal))
}

// Continue lets a stopped tracee run on as a tracee.
func Continue(tid int, signal unix.Signal) error {
	return call(unix.PTRACE_CONT, tid, 0, uintptr(signal))
}

// Step lets a stopped tracee run for one instruction.
func Step(tid int, signal unix.Signal) error {
	return call(unix.PTRACE_SINGLESTEP, tid, 0, uintptr(signal))
}

// NextSyscall lets a stopped tracee run until it enters or leaves a system call.
func NextSyscall(tid int, signal unix.Signal) error {
	return call(unix.PTRACE_SYSCALL, tid, 0, uintptr(signal))
}

// SetOptions changes a stopped tracee's options.
func SetOptions(tid, options int) error {
	return call(unix.PTRACE_SETOPTIONS, tid, 0, uintptr(options))
}

// Message is the number that belongs to a stop: of a fork, vfork or clone, the
// TID of the child; of an exec, the TID that the task had before.
func Message(tid int) (int, error) {
	var n uint64 // an unsigned long
	err := fill(unix.PTRACE_GETEVENTMSG, tid, 0, unsafe.Pointer(&n))
	return int(n), err
}
