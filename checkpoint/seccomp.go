package checkpoint

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A Filter is one of a thread's seccomp filters, the oldest first.
//
// While a thread is asked, or built, its filters are suspended. When this program is
// killed meanwhile they are not any more, and the thread makes one call more, and
// rt_sigreturn: so what they would say of these is found out before, by running them
// here, and a thread that they would kill is not asked.
type Filter struct {
	Program []byte `json:"program"` // struct sock_filter
	Flags   uint64 `json:"flags,omitempty"`
}

const maxFilters = 1024

// What a filter says, of linux/seccomp.h: less is stricter, but for
// SECCOMP_RET_KILL_PROCESS, which is negative.
const (
	seccompErrno    = 0x00050000
	seccompNotify   = 0x7fc00000
	seccompLog      = 0x7ffc0000
	seccompAllow    = 0x7fff0000
	seccompActions  = 0xffff0000
	archOfProgram   = 0xc000003e // AUDIT_ARCH_X86_64
	setModeFilter   = 1          // SECCOMP_SET_MODE_FILTER
	instructionSize = 8
	returnAt        = 7    // of the instruction of rt_sigreturn in guestCode
	bpfReturn       = 0x06 // BPF_RET | BPF_K
)

// filters reads the filters of a stopped thread. Where no thread has any nobody needs
// the right to read them.
func (s *survey) filters(p *Process, t *Thread) error {
	for s.filtered {
		program, flags, err := ptrace.SeccompFilter(t.TID, len(t.Filters))
		switch {
		case err == unix.ENOENT || err == unix.EINVAL && len(t.Filters) == 0: // there is none
			return nil
		case err == unix.EACCES || err == unix.EPERM:
			s.hinder(p.PID, "thread "+strconv.Itoa(t.TID), "to read its seccomp filters, be root or have CAP_SYS_ADMIN")
			return nil
		case err != nil:
			return fmt.Errorf("its seccomp filters: %w", err)
		}
		t.Filters = append(t.Filters, Filter{program, flags})
		for i := 0; i+instructionSize <= len(program); i += instructionSize {
			if code := binary.LittleEndian.Uint16(program[i:]); code == bpfReturn && binary.LittleEndian.Uint32(program[i+4:])&seccompActions == seccompNotify {
				s.hinder(p.PID, "thread "+strconv.Itoa(t.TID), "a seccomp filter of it asks another process (SECCOMP_RET_USER_NOTIF)")
				break
			}
		}
	}
	return nil
}

// errFiltered is of a thread that must not be asked.
var errFiltered = fmt.Errorf("%w: its seccomp filter would kill it if this program were killed while it is asked", freezer.ErrUnsupported)

// allows says whether filters let a thread make a call at an address: or, where
// that does it no harm, have it fail.
func allows(filters []Filter, mayFail bool, at uintptr, nr int, args []uintptr) error {
	var data [64]byte // struct seccomp_data
	put64(data[:], uint64(nr)|archOfProgram<<32)
	put64(data[8:], uint64(at)+2) // behind the instruction
	for i, a := range args {
		put64(data[16+8*i:], uint64(a))
	}
	for _, f := range filters {
		switch action := runFilter(f.Program, &data) & seccompActions; {
		case action == seccompAllow || action == seccompLog || action == seccompErrno && mayFail:
		default:
			return fmt.Errorf("%w (system call %d)", errFiltered, nr)
		}
	}
	return nil
}

// runFilter runs a filter of classic BPF; 0, which kills, is also the result of one
// that the kernel would not take.
func runFilter(program []byte, data *[64]byte) uint32 {
	var a, x uint32
	var memory [16]uint32
	for pc := 0; pc*instructionSize+instructionSize <= len(program); pc++ { // it only jumps forward
		i := program[pc*instructionSize:]
		code, jt, jf, k := binary.LittleEndian.Uint16(i), int(i[2]), int(i[3]), binary.LittleEndian.Uint32(i[4:])
		operand := k
		if code&0x08 != 0 { // BPF_X
			operand = x
		}
		switch code & 0x07 {
		case 0x00: // BPF_LD
			switch code & 0xe0 {
			case 0x00:
				a = k
			case 0x20:
				if k > 60 || k%4 != 0 {
					return 0
				}
				a = binary.LittleEndian.Uint32(data[k:])
			case 0x60:
				a = memory[k%16]
			case 0x80:
				a = uint32(len(data))
			}
		case 0x01: // BPF_LDX
			switch code & 0xe0 {
			case 0x00:
				x = k
			case 0x60:
				x = memory[k%16]
			case 0x80:
				x = uint32(len(data))
			}
		case 0x02: // BPF_ST
			memory[k%16] = a
		case 0x03: // BPF_STX
			memory[k%16] = x
		case 0x04: // BPF_ALU
			switch code & 0xf0 {
			case 0x00:
				a += operand
			case 0x10:
				a -= operand
			case 0x20:
				a *= operand
			case 0x30:
				if operand == 0 {
					return 0
				}
				a /= operand
			case 0x40:
				a |= operand
			case 0x50:
				a &= operand
			case 0x60:
				a <<= operand & 31
			case 0x70:
				a >>= operand & 31
			case 0x80:
				a = -a
			case 0xa0:
				a ^= operand
			}
		case 0x05: // BPF_JMP
			var yes bool
			switch code & 0xf0 {
			case 0x00:
				if k > uint32(len(program)) {
					return 0
				}
				pc += int(k)
				continue
			case 0x10:
				yes = a == operand
			case 0x20:
				yes = a > operand
			case 0x30:
				yes = a >= operand
			case 0x40:
				yes = a&operand != 0
			}
			if yes {
				pc += jt
			} else {
				pc += jf
			}
		case 0x06: // BPF_RET
			if code&0x18 == 0x10 { // BPF_A
				return a
			}
			return k
		case 0x07: // BPF_MISC
			if code&0xf8 == 0x80 {
				a = x
			} else {
				x = a
			}
		}
	}
	return 0
}

// suspend has the filters of a tracee do nothing, until options are set again.
func suspend(tid, options int) error {
	if err := ptrace.SetOptions(tid, options|ptrace.SuspendSeccomp); err != nil {
		return fmt.Errorf("task %d: to suspend its seccomp filters, be root or have CAP_SYS_ADMIN: %w", tid, err)
	}
	return nil
}

// filter gives a thread its filters, which do nothing before it is let go.
func (w *worker) filter(t *Thread) error {
	if len(t.Filters) == 0 {
		return nil
	}
	if err := suspend(w.tid, builderOptions); err != nil {
		return err
	}
	if err := w.work(); err != nil {
		return err
	}
	for _, f := range t.Filters {
		program := make([]byte, 16) // struct sock_fprog
		put64(program, uint64(len(f.Program)/instructionSize))
		put64(program[8:], uint64(w.put(f.Program)))
		w.do("seccomp filter", unix.SYS_SECCOMP, setModeFilter, uintptr(f.Flags), w.put(program))
		if err := w.work(); err != nil {
			return err
		}
	}
	return nil
}

// checkFilters says whether a thread can have such filters.
func (t *Thread) checkFilters() bool {
	for _, f := range t.Filters {
		if n := len(f.Program); n == 0 || n%instructionSize != 0 || n > 4096*instructionSize {
			return false
		}
	}
	return len(t.Filters) <= maxFilters
}
