//go:build !amd64

package ptrace

// HasRegs says whether this architecture's Regs have the methods' meanings:
// where it is false all of them are useless, and their users must refuse.
const HasRegs = false

// PC is 0.
func (r *Regs) PC() uintptr { return 0 }

// SetPC does nothing.
func (r *Regs) SetPC(uintptr) {}

// SP is 0.
func (r *Regs) SP() uintptr { return 0 }

// Syscall is -1.
func (r *Regs) Syscall() int { return -1 }

// Result is 0.
func (r *Regs) Result() int { return 0 }

// SetResult does nothing.
func (r *Regs) SetResult(int) {}

// Arg is 0.
func (r *Regs) Arg(int) uintptr { return 0 }

// SetArg does nothing.
func (r *Regs) SetArg(int, uintptr) {}
