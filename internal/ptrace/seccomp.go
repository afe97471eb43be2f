package ptrace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// SuspendSeccomp is an option under which a tracee's seccomp filters do nothing, as
// long as it is traced. It needs CAP_SYS_ADMIN.
const SuspendSeccomp = unix.PTRACE_O_SUSPEND_SECCOMP

// SeccompFilter reads one of a tracee's seccomp filters, of which the first is the
// oldest: its instructions, of 8 bytes each, and the flags with which it was made.
// The error is ENOENT behind the last one. It needs CAP_SYS_ADMIN.
func SeccompFilter(tid, index int) (program []byte, flags uint64, err error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(tid), uintptr(index), 0, 0, 0)
	if errno != 0 {
		return nil, 0, failed(errno)
	}
	program = make([]byte, max(8, 8*n))
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(tid), uintptr(index), uintptr(unsafe.Pointer(&program[0])), 0, 0); errno != 0 {
		return nil, 0, failed(errno)
	}
	data := [2]uint64{uint64(index)} // struct seccomp_metadata
	_, _, errno = unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_METADATA, uintptr(tid), unsafe.Sizeof(data), uintptr(unsafe.Pointer(&data)), 0, 0)
	if errno != 0 {
		return nil, 0, failed(errno)
	}
	return program, data[1], nil
}
