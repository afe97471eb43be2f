package checkpoint

import (
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/ptrace"
)

// guestCode is what a guest runs: a system call, and then the way back. Behind it,
// at forkAt, is what makes a copy of the process: a clone that shares the memory, for
// which it waits; that one closes all files of its own (it has a table of its own),
// forks the copy, and ends with the fork's error as its status. Who reaches the end
// of this, the copy among them, ends.
var guestCode = []byte{
	0x0f, 0x05, // syscall
	0xb8, 0x0f, 0, 0, 0, // mov $SYS_rt_sigreturn, %eax
	0x0f, 0x05, // syscall
	// forkAt:
	0x0f, 0x05, // syscall: clone
	0x85, 0xc0, // test %eax, %eax
	0x74, 0x1c, // jz the clone
	0x78, 0x13, // js out
	0x89, 0xc7, // mov %eax, %edi
	0x31, 0xf6, // xor %esi, %esi
	0xba, 0, 0, 0, 0x40, // mov $__WALL, %edx
	0x45, 0x31, 0xd2, // xor %r10d, %r10d
	0xb8, 0x3d, 0, 0, 0, // mov $SYS_wait4, %eax
	0x0f, 0x05, // syscall
	0xb8, 0x0f, 0, 0, 0, // out: mov $SYS_rt_sigreturn, %eax
	0x0f, 0x05, // syscall
	// the clone:
	0x31, 0xff, // xor %edi, %edi
	0xbe, 0xff, 0xff, 0xff, 0xff, // mov $-1, %esi
	0x31, 0xd2, // xor %edx, %edx
	0xb8, 0xb4, 0x01, 0, 0, // mov $SYS_close_range, %eax
	0x0f, 0x05, // syscall
	0xbf, 0x11, 0, 0, 0, // mov $SIGCHLD, %edi
	0x31, 0xf6, // xor %esi, %esi
	0x31, 0xd2, // xor %edx, %edx
	0x45, 0x31, 0xd2, // xor %r10d, %r10d
	0x45, 0x31, 0xc0, // xor %r8d, %r8d
	0xb8, 0x38, 0, 0, 0, // mov $SYS_clone, %eax
	0x0f, 0x05, // syscall
	0x89, 0xc7, // mov %eax, %edi
	0xf7, 0xdf, // neg %edi
	0xb8, 0xe7, 0, 0, 0, // mov $SYS_exit_group, %eax
	0x0f, 0x05, // syscall
}

const forkAt = 9

// toFork sets registers for the clone with which a copy of the process begins.
func toFork(r *ptrace.Regs, at *room) {
	toCall(r, at, unix.SYS_CLONE, []uintptr{unix.CLONE_VM})
	r.SetPC(at.code + forkAt)
}

// toReturn sets registers so that the thread would put its own back if it ran on.
func toReturn(r *ptrace.Regs, at *room) {
	r.SetPC(at.code + 2)
	r.Rsp = uint64(at.frame + 8)
	r.Orig_rax = ^uint64(0) // it is in no call that could start again
}

// toCall sets registers for a system call with toReturn after it.
func toCall(r *ptrace.Regs, at *room, nr int, args []uintptr) {
	toReturn(r, at)
	r.SetPC(at.code)
	r.Rax = uint64(nr)
	for i := range 6 {
		r.SetArg(i, 0)
	}
	for i, a := range args {
		r.SetArg(i, a)
	}
}

// What a system call that is to start again has as its result.
const (
	restartSys      = -512
	restartNoIntr   = -513
	restartNoHand   = -514
	restartWithRest = -516 // ERESTART_RESTARTBLOCK: the kernel knows what is left
)

// restarts says whether the kernel starts the thread's system call again.
func restarts(r *ptrace.Regs) bool {
	if r.Syscall() < 0 {
		return false
	}
	n := r.Result()
	return n == restartSys || n == restartNoIntr || n == restartNoHand || n == restartWithRest
}

// setCall changes the number of the system call that the thread is in.
func setCall(r *ptrace.Regs, nr int) { r.Orig_rax = uint64(nr) }

// frameState is where in a frame the XSAVE area is.
const frameState = 320

// The XSAVE area of processors without AVX-512: x87, SSE and AVX.
const (
	smallState    = 832
	smallFeatures = 1 | 2 | 4
	keysFeature   = 1 << 9 // PKRU
)

// fitsSmaller says whether a thread uses nothing that the small area lacks but the
// register of protection keys.
func fitsSmaller(t *Thread) bool {
	const inUse = 512 // XSTATE_BV
	return len(t.State) > smallState && get64(t.State[inUse:])&^(smallFeatures|keysFeature) == 0
}

func stateSize(t *Thread, small bool) int {
	if small {
		return smallState
	}
	return len(t.State)
}

// frameSize is how long a thread's frame is.
func frameSize(t *Thread, small bool) int { return frameState + stateSize(t, small) + 4 }

// signalFrame is an rt_sigframe, as the kernel has it on the stack below a
// handler, with a thread's registers and signal mask. Its address must be a
// multiple of 64. See arch/x86/include/asm/sigframe.h and uapi/asm/sigcontext.h.
func signalFrame(at uintptr, t *Thread, small bool) []byte {
	const (
		context   = 8            // struct ucontext, after the return address
		registers = context + 40 // struct sigcontext
		mask      = registers + 256
		state     = frameState
		software  = 464 // of the bytes in the XSAVE area that are left to us
	)
	r := t.Registers
	if restarts(&r) { // nobody will do it for us
		r.Rip -= 2
		r.Rax = r.Orig_rax
	}
	size := stateSize(t, small)
	b := make([]byte, frameSize(t, small))
	put64(b[context:], 1|2|4)       // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
	put64(b[context+24:], 0x7f<<24) // no legal alternate stack: it stays what it is
	for i, v := range []uint64{r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rcx, r.Rsp, r.Rip, r.Eflags,
		r.Cs&0xffff | r.Ss<<48} {
		put64(b[registers+8*i:], v)
	}
	put64(b[registers+184:], uint64(at+state))
	put64(b[mask:], t.Blocked)
	copy(b[state:], t.State[:size])
	sw := b[state+software : state+software+48]
	clear(sw)
	put64(sw[0:], 0x46505853|uint64(size+4)<<32) // FP_XSTATE_MAGIC1, the size with magic2
	put64(sw[8:], features(t.State))
	if small {
		put64(sw[8:], smallFeatures)
		b[state+512] &= smallFeatures
		b[state+513] = 0
	}
	put64(sw[16:], uint64(size))
	copy(b[state+size:], []byte{0x45, 0x58, 0x50, 0x46}) // FP_XSTATE_MAGIC2
	return b
}

// features are the parts that an XSAVE area can have on its processor (XCR0),
// which the kernel puts where the processor leaves room.
func features(state []byte) uint64 { return get64(state[464:]) }

// threadFlags are those of clone(2) for a thread of a process.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM

// workerCode makes the system calls of a list: rbx is its address, r12 how many
// there are, and each is a number, six arguments and room for the result. Then it
// sends SIGSTOP to itself (thread r14 of process r13), which only its tracer sees.
var workerCode = []byte{
	0x48, 0x8b, 0x03, // mov (%rbx), %rax
	0x48, 0x8b, 0x7b, 0x08, // mov 8(%rbx), %rdi
	0x48, 0x8b, 0x73, 0x10, // mov 16(%rbx), %rsi
	0x48, 0x8b, 0x53, 0x18, // mov 24(%rbx), %rdx
	0x4c, 0x8b, 0x53, 0x20, // mov 32(%rbx), %r10
	0x4c, 0x8b, 0x43, 0x28, // mov 40(%rbx), %r8
	0x4c, 0x8b, 0x4b, 0x30, // mov 48(%rbx), %r9
	0x0f, 0x05, // syscall
	0x48, 0x89, 0x43, 0x38, // mov %rax, 56(%rbx)
	0x48, 0x83, 0xc3, 0x40, // add $64, %rbx
	0x49, 0xff, 0xcc, // dec %r12
	0x75, 0xd6, // jnz back to the beginning
	0xb8, 0xea, 0, 0, 0, // mov $SYS_tgkill, %eax
	0x4c, 0x89, 0xef, // mov %r13, %rdi
	0x4c, 0x89, 0xf6, // mov %r14, %rsi
	0xba, 0x13, 0, 0, 0, // mov $SIGSTOP, %edx
	0x0f, 0x05, // syscall
	0x0f, 0x0b, // ud2
}

// toWork sets registers for the list of system calls.
func toWork(r *ptrace.Regs, code, list uintptr, count, pid, tid int) {
	r.SetPC(code)
	r.Rbx, r.R12, r.R13, r.R14 = uint64(list), uint64(count), uint64(pid), uint64(tid)
	r.Orig_rax = ^uint64(0)
}

// toLast sets registers for one system call at an instruction that is there.
func toLast(r *ptrace.Regs, instruction uintptr, nr int, args ...uintptr) {
	r.SetPC(instruction)
	r.Rax, r.Orig_rax = uint64(nr), ^uint64(0)
	for i, a := range args {
		r.SetArg(i, a)
	}
}

// initCode is what the first process of a PID namespace runs: it waits for all its
// children, and writes the wait status of the one whose PID is in rbx to descriptor
// 0. r12 is the address of room for that. It ends when it has no children.
var initCode = []byte{
	0xb8, 0x3d, 0, 0, 0, // mov $SYS_wait4, %eax
	0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov $-1, %rdi
	0x4c, 0x89, 0xe6, // mov %r12, %rsi
	0xba, 0, 0, 0, 0x40, // mov $__WALL, %edx
	0x45, 0x31, 0xd2, // xor %r10d, %r10d
	0x0f, 0x05, // syscall
	0x48, 0x83, 0xf8, 0xfc, // cmp $-EINTR, %rax
	0x74, 0xe1, // je back to the beginning
	0x48, 0x85, 0xc0, // test %rax, %rax
	0x78, 0x18, // js to the end
	0x48, 0x39, 0xd8, // cmp %rbx, %rax
	0x75, 0xd7, // jne back to the beginning
	0xb8, 0x01, 0, 0, 0, // mov $SYS_write, %eax
	0x31, 0xff, // xor %edi, %edi
	0x4c, 0x89, 0xe6, // mov %r12, %rsi
	0xba, 0x04, 0, 0, 0, // mov $4, %edx
	0x0f, 0x05, // syscall
	0xeb, 0xc4, // jmp back to the beginning
	0xb8, 0xe7, 0, 0, 0, // mov $SYS_exit_group, %eax
	0x31, 0xff, // xor %edi, %edi
	0x0f, 0x05, // syscall
}

// toInit sets registers for initCode.
func toInit(r *ptrace.Regs, code, room uintptr, first int) {
	r.SetPC(code)
	r.Rbx, r.R12 = uint64(first), uint64(room)
	r.Orig_rax = ^uint64(0)
}

// callInstruction makes a system call.
var callInstruction = []byte{0x0f, 0x05}

// workshop is an ELF program that waits for signals, with size bytes of memory at
// an address, in which it could run code.
func workshop(at, size uint64) []byte {
	const headers = 64 + 2*56
	code := []byte{
		0xb8, 34, 0, 0, 0, // mov $SYS_pause, %eax
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp back to the beginning
	}
	b := make([]byte, headers+len(code))
	copy(b, "\x7fELF\x02\x01\x01")
	put16 := func(at int, v uint16) { b[at], b[at+1] = byte(v), byte(v>>8) }
	put32 := func(at int, v uint32) { put16(at, uint16(v)); put16(at+2, uint16(v>>16)) }
	put16(16, 2)  // an executable
	put16(18, 62) // of x86-64
	put32(20, 1)
	put64(b[24:], at+headers) // where it begins
	put64(b[32:], 64)         // where the program headers are
	put16(52, 64)
	put16(54, 56)
	put16(56, 2)
	segment := func(at int, flags uint32, address, inFile, inMemory uint64) {
		put32(at, 1)
		put32(at+4, flags)
		put64(b[at+16:], address)
		put64(b[at+24:], address)
		put64(b[at+32:], inFile)
		put64(b[at+40:], inMemory)
		put64(b[at+48:], pageSize)
	}
	segment(64, 5, at, uint64(len(b)), uint64(len(b)))
	segment(64+56, 7, at+pageSize, 0, size-pageSize)
	copy(b[headers:], code)
	return b
}
