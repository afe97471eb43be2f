package ptrace

// HasRegs says whether this architecture's Regs have the methods' meanings.
const HasRegs = true

// PC is the address of the next instruction.
func (r *Regs) PC() uintptr { return uintptr(r.Rip) }

// SetPC changes the address of the next instruction.
func (r *Regs) SetPC(address uintptr) { r.Rip = uint64(address) }

// SP is the stack pointer.
func (r *Regs) SP() uintptr { return uintptr(r.Rsp) }

// Syscall is the number of the system call that the task is in, or is about to
// leave; -1 when it is in none, and when the kernel is not to start one again.
func (r *Regs) Syscall() int { return int(int64(r.Orig_rax)) }

// Result is what the system call returns: a negative errno when it failed.
func (r *Regs) Result() int { return int(int64(r.Rax)) }

// SetResult changes what the system call returns. The kernel's own numbers
// (-512 to -516) have it decide, when the task goes on, whether the call is
// started again.
func (r *Regs) SetResult(n int) { r.Rax = uint64(n) }

// Arg is the system call's argument n, 0 to 5.
func (r *Regs) Arg(n int) uintptr { return uintptr(*r.arg(n)) }

// SetArg changes argument n, 0 to 5.
func (r *Regs) SetArg(n int, value uintptr) { *r.arg(n) = uint64(value) }

func (r *Regs) arg(n int) *uint64 {
	return [...]*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9}[n]
}
