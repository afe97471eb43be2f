package ptrace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a tracer can read and set of a stopped tracee besides its general
// registers.

// ExtendedState is the number of the register set that holds all vector and
// floating point registers on x86, in the form of XSAVE (NT_X86_XSTATE).
const ExtendedState = 0x202

// RegisterSet reads a register set, named by its ELF note number. Sets of more
// than 64 KiB are cut short; the kernel has none.
func RegisterSet(tid, note int) ([]byte, error) {
	buf := make([]byte, 64<<10)
	v := unix.Iovec{Base: &buf[0]}
	v.SetLen(len(buf))
	err := fill(unix.PTRACE_GETREGSET, tid, uintptr(note), unsafe.Pointer(&v))
	return buf[:v.Len], err
}

// SetRegisterSet sets a register set. The error is EINVAL when this processor's
// has another size.
func SetRegisterSet(tid, note int, data []byte) error {
	v := unix.Iovec{Base: &data[0]}
	v.SetLen(len(data))
	return fill(unix.PTRACE_SETREGSET, tid, uintptr(note), unsafe.Pointer(&v))
}

// SignalMask is the set of signals that a tracee blocks: bit 0 is signal 1.
func SignalMask(tid int) (mask uint64, err error) {
	err = fill(unix.PTRACE_GETSIGMASK, tid, unsafe.Sizeof(mask), unsafe.Pointer(&mask))
	return mask, err
}

// SetSignalMask changes the set of signals that a tracee blocks.
func SetSignalMask(tid int, mask uint64) error {
	return fill(unix.PTRACE_SETSIGMASK, tid, unsafe.Sizeof(mask), unsafe.Pointer(&mask))
}

// A SignalInfo is a siginfo_t.
type SignalInfo [128]byte

// QueuedSignals are the signals that wait to be taken by a tracee alone, or by
// its process when shared, the oldest first.
func QueuedSignals(tid int, shared bool) (all []SignalInfo, err error) {
	type args struct { // struct __ptrace_peeksiginfo_args
		off   uint64
		flags uint32
		nr    int32
	}
	var flags uint32
	if shared {
		flags = 1 // PTRACE_PEEKSIGINFO_SHARED
	}
	for {
		var some [32]SignalInfo
		a := args{uint64(len(all)), flags, int32(len(some))}
		if OnCall != nil {
			OnCall(true)
		}
		n, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_PEEKSIGINFO, uintptr(tid), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&some)), 0, 0)
		if OnCall != nil {
			OnCall(false)
		}
		if errno != 0 {
			return nil, errno
		}
		all = append(all, some[:n]...)
		if int(n) < len(some) {
			return all, nil
		}
	}
}

// A Rseq is how a task registered its restartable sequences (rseq(2)); the zero
// value when it did not.
type Rseq struct {
	Address   uint64
	Size      uint32
	Signature uint32
}

// RestartableSequences reads a tracee's registration.
func RestartableSequences(tid int) (Rseq, error) {
	var conf struct { // struct ptrace_rseq_configuration
		Rseq
		flags, pad uint32
	}
	const getRseqConfiguration = 0x420f
	err := fill(getRseqConfiguration, tid, unsafe.Sizeof(conf), unsafe.Pointer(&conf))
	return conf.Rseq, err
}
