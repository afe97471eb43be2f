package ptrace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Regs are the general registers of a task of this program's own architecture.
// What stands in which of them is in files by architecture.
type Regs struct{ unix.PtraceRegs }

const ntPRStatus = 1 // NT_PRSTATUS of elf.h

// Registers reads the registers of a stopped tracee. The error is EOPNOTSUPP
// for a task that runs code of another architecture (32-bit code under a 64-bit
// kernel).
func Registers(tid int) (*Regs, error) {
	var r Regs
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(&r))}
	v.SetLen(int(unsafe.Sizeof(r)))
	if err := fill(unix.PTRACE_GETREGSET, tid, ntPRStatus, unsafe.Pointer(&v)); err != nil {
		return nil, err
	}
	if uintptr(v.Len) != unsafe.Sizeof(r) {
		return nil, unix.EOPNOTSUPP
	}
	return &r, nil
}

// SetRegisters sets the registers of a stopped tracee.
func SetRegisters(tid int, r *Regs) error {
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(r))}
	v.SetLen(int(unsafe.Sizeof(*r)))
	return fill(unix.PTRACE_SETREGSET, tid, ntPRStatus, unsafe.Pointer(&v))
}
