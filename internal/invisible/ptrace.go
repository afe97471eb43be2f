package invisible

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What this package needs of ptrace and no other does.

// Where a task stopped.
const (
	atSignal = 0 // PTRACE_SYSCALL_INFO_NONE
	atEntry  = 1
	atExit   = 2
)

func where(tid int) byte {
	var info [88]byte // struct ptrace_syscall_info
	const getSyscallInfo = 0x420e
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return atSignal
	}
	return info[0]
}

// stopIsPending says whether SIGSTOP or one of its kind waits to be taken. Then
// an EINTR is that signal's, as it would be without a freeze.
func stopIsPending(tid int) bool {
	type args struct { // struct __ptrace_peeksiginfo_args
		off   uint64
		flags uint32
		nr    int32
	}
	const shared = 1 // PTRACE_PEEKSIGINFO_SHARED
	var infos [8][128]byte
	for flags := range uint32(shared + 1) {
		a := args{flags: flags, nr: int32(len(infos))}
		n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_PEEKSIGINFO, uintptr(tid), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&infos)), 0, 0)
		if errno != 0 {
			continue
		}
		for _, info := range infos[:n] {
			switch unix.Signal(binary.NativeEndian.Uint32(info[:])) {
			case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
				return true
			}
		}
	}
	return false
}

// changed returns a task of this thread's that has stopped or ended.
func changed() (tid int, ok bool) {
	var info struct { // siginfo_t
		signo, errno, code, _ int32
		pid                   int32
		_                     [108]byte
	}
	const which = unix.WSTOPPED | unix.WEXITED | unix.WNOWAIT | unix.WNOHANG | unix.WALL | unix.WNOTHREAD
	_, _, errno := unix.RawSyscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)), which, 0, 0)
	return int(info.pid), errno == 0 && info.pid != 0
}
