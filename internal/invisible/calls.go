package invisible

import (
	"encoding/binary"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A call is a system call that a task is in.
type call struct {
	nr   int
	args [6]uintptr
}

// callOf takes the call from the registers of a stopped task.
func callOf(r *ptrace.Regs) call {
	c := call{nr: r.Syscall()}
	for i := range c.args {
		c.args[i] = r.Arg(i)
	}
	return c
}

// Where /proc/TID/syscall says that a task is.
const (
	running   = iota // on a processor; or it cannot be seen
	elsewhere        // asleep, but in no system call
	inCall
)

// callIn reads /proc/TID/syscall.
func callIn(tid int) (c call, where int) {
	var buf [256]byte
	text, err := kernfs.ReadOnce(proc.Path(tid, "syscall"), buf[:])
	if err != nil {
		return c, running
	}
	return parseCall(string(text))
}

func parseCall(text string) (c call, where int) {
	f := strings.Fields(text)
	if len(f) < 3 { // the word "running"
		return c, running
	}
	nr, err := strconv.Atoi(f[0])
	if err != nil || nr < 0 || len(f) < 7 {
		return c, elsewhere
	}
	c.nr = nr
	for i := range c.args {
		n, err := strconv.ParseUint(f[1+i], 0, 64)
		if err != nil {
			return c, elsewhere
		}
		c.args[i] = uintptr(n)
	}
	return c, inCall
}

// What a task that is frozen in a call needs.
type need int

const (
	nothing need = iota // the kernel starts the call again by itself
	restart             // it fails with EINTR
	inTime              // and it has a timeout, that starts anew
)

// A kind is what is known of one system call whose EINTR means that it did
// nothing, so that it can start again. Calls of which that is not certain are
// in no table: close, for one, has closed the file when it fails.
type kind struct {
	limit    func(tid int, c call) (time.Duration, need) // its timeout, if it has one that can be found
	timedOut func(tid int, c call) int                   // what it returns when time is up
	left     *remainder                                  // where the kernel writes what is left
	woken    func(tid int, c call) (result int, ok bool) // what it returns when what it waits for has come meanwhile, where starting again would fail then
}

// A remainder is a timeout in the program's memory that the kernel updates.
type remainder struct {
	arg  int
	unit time.Duration // of its second word: a timeval's or a timespec's
}

func returns(n int) func(int, call) int { return func(int, call) int { return n } }

func unlimited(int, call) (time.Duration, need) { return 0, restart }

// millis is a timeout in milliseconds, without one when negative.
func millis(arg int) func(int, call) (time.Duration, need) {
	return func(_ int, c call) (time.Duration, need) {
		if ms := int32(c.args[arg]); ms >= 0 {
			return time.Duration(ms) * time.Millisecond, inTime
		}
		return 0, restart
	}
}

// timespec is a pointer to a struct timespec, null for no timeout.
func timespec(arg int) func(int, call) (time.Duration, need) {
	return remainder{arg, time.Nanosecond}.read
}

func (r remainder) read(tid int, c call) (time.Duration, need) {
	return readTime(tid, c.args[r.arg], r.unit)
}

func readTime(tid int, addr uintptr, unit time.Duration) (time.Duration, need) {
	var b [16]byte
	if addr == 0 || peek(tid, addr, b[:]) != nil {
		return 0, restart
	}
	sec, part := int64(binary.NativeEndian.Uint64(b[:])), int64(binary.NativeEndian.Uint64(b[8:]))
	return seconds(sec, part, unit)
}

// seconds takes a hundred years for as good as for ever.
func seconds(sec, part int64, unit time.Duration) (time.Duration, need) {
	if sec < 0 || part < 0 || sec > 1<<32 || part > int64(time.Second/unit) {
		return 0, restart
	}
	return time.Duration(sec)*time.Second + time.Duration(part)*unit, inTime
}

// write stores what is left. It is not an error when the program has made the
// memory read-only meanwhile.
func (r remainder) write(tid int, c call, left time.Duration) {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:], uint64(left/time.Second))
	binary.NativeEndian.PutUint64(b[8:], uint64(left%time.Second/r.unit))
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: c.args[r.arg], Len: len(b)}}
	_, _ = unix.ProcessVMWritev(tid, local, remote, 0)
}

// peek reads only what the program itself could read.
func peek(tid int, addr uintptr, b []byte) error {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: addr, Len: len(b)}}
	n, err := unix.ProcessVMReadv(tid, local, remote, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

// receiving is the SO_RCVTIMEO, sending the SO_SNDTIMEO of a socket. Of a socket
// without, and of a pipe, the kernel itself starts the call again.
func receiving(arg int) func(int, call) (time.Duration, need) { return onFile(arg, unix.SO_RCVTIMEO) }
func sending(arg int) func(int, call) (time.Duration, need)   { return onFile(arg, unix.SO_SNDTIMEO) }

func onFile(arg, option int) func(int, call) (time.Duration, need) {
	return func(tid int, c call) (limit time.Duration, n need) {
		fd := int(int32(c.args[arg]))
		n = restart
		// A copy of the descriptor takes as long as all the rest. To ask for the file's
		// type would ask a server that may hang; for a FIFO with a name this restart is
		// one too many, and does nothing.
		switch link, err := os.Readlink(proc.Path(tid, "fd/"+strconv.Itoa(fd))); {
		case strings.HasPrefix(link, "pipe:"):
			return 0, nothing
		case err == nil && !strings.HasPrefix(link, "socket:"):
			return 0, restart
		}
		withFile(tid, fd, func(fd int) {
			tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, option)
			switch {
			case err == nil && *tv != unix.Timeval{}:
				limit, n = seconds(int64(tv.Sec), int64(tv.Usec), time.Microsecond)
			case err == nil:
				n = nothing
			}
		})
		return limit, n
	}
}

// either is what the first of two files needs, if it needs anything.
func either(a, b func(int, call) (time.Duration, need)) func(int, call) (time.Duration, need) {
	return func(tid int, c call) (time.Duration, need) {
		if limit, n := a(tid, c); n != nothing {
			return limit, n
		}
		return b(tid, c)
	}
}

// connecting is what connect returns when SO_SNDTIMEO is over.
func connecting(tid int, c call) int {
	result := -int(unix.EINPROGRESS)
	withFile(tid, int(int32(c.args[0])), func(fd int) {
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_UNIX {
			result = -int(unix.EAGAIN)
		}
	})
	return result
}

const pidfdThread = unix.O_EXCL // PIDFD_THREAD, since Linux 6.9

// withFile calls use with a copy of a task's descriptor, if there is a way to
// get one.
func withFile(tid, fd int, use func(fd int)) {
	task, err := unix.PidfdOpen(tid, pidfdThread)
	if err != nil {
		task, err = unix.PidfdOpen(proc.Process(tid), 0)
	}
	if err != nil {
		return
	}
	defer unix.Close(task)
	if ours, err := unix.PidfdGetfd(task, fd, 0); err == nil {
		use(ours)
		unix.Close(ours)
	}
}

// waking needs help only when its futex has changed: then woken says so.
func waking(woken func(int, call) (int, bool)) kind {
	return kind{woken: woken, limit: func(tid int, c call) (time.Duration, need) {
		if _, ok := woken(tid, c); ok {
			return 0, restart
		}
		return 0, nothing
	}}
}

// Operations of futex(2), and what can be added to them.
const (
	futexWait       = 0
	futexWaitBitset = 9
	futexFlags      = 128 | 256 // FUTEX_PRIVATE_FLAG, FUTEX_CLOCK_REALTIME
)

// futexChanged says whether a futex has another value than its waiter expects.
// Started again, the call would fail with EAGAIN; without the freeze the waiter
// would have been woken. One that is woken too often looks and waits again.
func futexChanged(tid int, addr uintptr, expected uint32) bool {
	var b [4]byte
	return peek(tid, addr, b[:]) == nil && binary.NativeEndian.Uint32(b[:]) != expected
}

func futexWoken(tid int, c call) (int, bool) {
	switch c.args[1] &^ futexFlags {
	case futexWait, futexWaitBitset:
		return 0, futexChanged(tid, c.args[0], uint32(c.args[2]))
	}
	return 0, false
}

func futex2Woken(tid int, c call) (int, bool) {
	return 0, futexChanged(tid, c.args[0], uint32(c.args[1]))
}

// futexvWoken returns the index of the futex that was changed.
func futexvWoken(tid int, c call) (int, bool) {
	for i := range min(c.args[1], 128) {
		var w [24]byte // struct futex_waitv: value, address, flags
		if peek(tid, c.args[0]+i*uintptr(len(w)), w[:]) != nil {
			break
		}
		if futexChanged(tid, uintptr(binary.NativeEndian.Uint64(w[8:])), binary.NativeEndian.Uint32(w[:])) {
			return int(i), true
		}
	}
	return 0, false
}

// Flags of io_uring_enter(2).
const (
	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3
	enterAbsTimer  = 1 << 5
	enterExtArgReg = 1 << 6
)

// ringLimit is the timeout within an io_uring_getevents_arg. One that the
// program registered beforehand cannot be seen.
func ringLimit(tid int, c call) (time.Duration, need) {
	flags := c.args[3]
	if flags&enterExtArg == 0 || flags&(enterAbsTimer|enterExtArgReg) != 0 {
		return 0, restart
	}
	var arg [24]byte
	if c.args[4] == 0 || peek(tid, c.args[4], arg[:]) != nil {
		return 0, restart
	}
	return readTime(tid, uintptr(binary.NativeEndian.Uint64(arg[16:])), time.Nanosecond)
}
