package checkpoint

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A process is built from outside. It begins as a small program that does nothing,
// with a piece of memory, its workshop, at an address where the process will have
// nothing. Lists of system calls are written there, which it then makes all at
// once: so a process is built with a few stops, not one for each call. At last the
// workshop is unmapped, and the registers are set.
//
// All tracees die with their tracer (PTRACE_O_EXITKILL) until they are let go.

// builderOptions are those of all tasks that are built.
const builderOptions = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK

// The workshop, which begins with a page of its program's.
const (
	shopCode = pageSize         // of the code that works lists off
	shopList = 2 * pageSize     // of the list
	shopData = shopList + 1<<16 // of what its arguments point to
	shopSize = shopData + 1<<18
	callSize = 64
	maxCalls = (shopData - shopList) / callSize
)

// A worker is a task that is being built.
type worker struct {
	pid, tid int    // for its tracer
	own      [2]int // its own PID and TID, which in a namespace of its own are others
	child    int    // that it made last, for its tracer
	shop     uint64
	regs     ptrace.Regs // with which it came
	calls    []call
	data     []byte
	left     *time.Duration // of the timeout of the call with which it goes on
}

// A call is one system call that a worker is to make.
type call struct {
	what string // for the message when it fails
	nr   int
	args []uintptr
	want func(result int) bool // nil: anything but an error
}

// newWorker prepares a tracee that has the workshop. Its own PID and TID are the same
// as for its tracer.
func newWorker(pid, tid int, shop uint64) (*worker, error) {
	regs, err := ptrace.Registers(tid)
	if err != nil {
		return nil, err
	}
	return &worker{pid: pid, tid: tid, own: [2]int{pid, tid}, shop: shop, regs: *regs}, nil
}

// do adds a system call to the list.
func (w *worker) do(what string, nr int, args ...uintptr) {
	w.calls = append(w.calls, call{what, nr, args, nil})
}

// expect is do for a call that is to return a certain value.
func (w *worker) expect(want uintptr, what string, nr int, args ...uintptr) {
	w.calls = append(w.calls, call{what, nr, args, func(n int) bool { return uintptr(n) == want }})
}

// put puts data where a call can point to, and returns its address.
func (w *worker) put(data []byte) uintptr {
	for len(w.data)%16 != 0 {
		w.data = append(w.data, 0)
	}
	at := uintptr(w.shop) + shopData + uintptr(len(w.data))
	w.data = append(w.data, data...)
	return at
}

// full says whether the list should be worked off now.
func (w *worker) full() bool {
	return len(w.calls) > maxCalls-64 || len(w.data) > shopSize-shopData-1<<17
}

// flush is work if the list is full.
func (w *worker) flush() error {
	if w.full() {
		return w.work()
	}
	return nil
}

// work has the worker make the calls of the list.
func (w *worker) work() error {
	calls, data := w.calls, w.data
	w.calls, w.data = nil, nil
	if len(calls) == 0 {
		return nil
	}
	if len(calls) > maxCalls || len(data) > shopSize-shopData {
		return fmt.Errorf("too much to do at once: %d calls, %d bytes", len(calls), len(data))
	}
	list := make([]byte, len(calls)*callSize)
	for i, c := range calls {
		put64(list[i*callSize:], uint64(c.nr))
		for k, a := range c.args {
			put64(list[i*callSize+8+8*k:], uint64(a))
		}
	}
	at := uintptr(w.shop) + shopList
	if err := w.write(at, list); err != nil {
		return err
	}
	if len(data) > 0 {
		if err := w.write(uintptr(w.shop)+shopData, data); err != nil {
			return err
		}
	}
	regs := w.regs
	toWork(&regs, uintptr(w.shop)+shopCode, at, len(calls), w.own[0], w.own[1])
	if err := ptrace.SetRegisters(w.tid, &regs); err != nil {
		return err
	}
	if err := w.run(); err != nil {
		return err
	}
	if err := w.read(at, list); err != nil {
		return err
	}
	for i, c := range calls {
		n := int(get64(list[i*callSize+56:]))
		if n < 0 && n > -4096 {
			return fmt.Errorf("process %d: %s: %w", w.own[0], c.what, unix.Errno(-n))
		}
		if c.want != nil && !c.want(n) {
			return fmt.Errorf("process %d: %s: the kernel gave %#x", w.own[0], c.what, n)
		}
	}
	return nil
}

// run lets a worker run until it stops itself.
func (w *worker) run() error {
	for {
		if err := ptrace.Continue(w.tid, 0); err != nil {
			return err
		}
		status, err := soon(w.tid)
		switch {
		case err != nil:
			return err
		case status.Ended():
			return fmt.Errorf("process %d was killed while it was built", w.own[0])
		case status.Signal() == unix.SIGSTOP:
			return nil
		case status.Event() == unix.PTRACE_EVENT_FORK, status.Event() == unix.PTRACE_EVENT_CLONE:
			if w.child, err = ptrace.Message(w.tid); err != nil {
				return err
			}
		case status.Signal() == unix.SIGCHLD: // of a zombie of the job, which nobody shall hear of again
		case status.Event() == 0:
			return fmt.Errorf("process %d got %v while it was built", w.own[0], status.Signal())
		}
	}
}

func (w *worker) read(at uintptr, b []byte) error {
	n, err := unix.ProcessVMReadv(w.pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, []unix.RemoteIovec{{Base: at, Len: len(b)}}, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

func (w *worker) write(at uintptr, data []byte) error {
	return writeMemory(w.pid, -1, uint64(at), data)
}

// writeMemory fills memory of a process that it may write itself, and by its mem
// file, when there is one, what it may not.
func writeMemory(pid, mem int, at uint64, b []byte) error {
	for len(b) > 0 {
		var n int
		var err error
		if mem < 0 {
			n, err = unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
		} else {
			n, err = unix.Pwrite(mem, b, int64(at))
		}
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EFAULT
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+uint64(n)
	}
	return nil
}

// last makes one system call at an instruction outside of the workshop, and leaves
// the worker where its registers can be set for good.
func (w *worker) last(instruction uintptr, nr int, args ...uintptr) error {
	regs := w.regs
	toLast(&regs, instruction, nr, args...)
	if err := ptrace.SetRegisters(w.tid, &regs); err != nil {
		return err
	}
	for range 2 {
		if err := ptrace.NextSyscall(w.tid, 0); err != nil {
			return err
		}
		if status, err := soon(w.tid); err != nil || status.Signal() != unix.SIGTRAP {
			return errors.Join(fmt.Errorf("process %d did not end well", w.own[0]), err)
		}
	}
	after, err := ptrace.Registers(w.tid)
	if err == nil && after.Result() < 0 {
		err = unix.Errno(-after.Result())
	}
	if err != nil {
		return err
	}
	if err := ptrace.Interrupt(w.tid); err != nil {
		return err
	}
	if err := ptrace.Continue(w.tid, 0); err != nil {
		return err
	}
	_, err = soon(w.tid)
	return err
}

// zombieTime is how long a PID may be taken by a process that has ended.
const zombieTime = 10 * time.Second

// clone makes a task with the given ID: a process of its own, or a thread. It is
// stopped before its first instruction.
func (w *worker) clone(flags uint64, exitSignal, id int) (*worker, error) {
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		var ids [16]byte
		put64(ids[:], uint64(id))
		args := make([]byte, 88) // struct clone_args
		put64(args[0:], flags)
		put64(args[32:], uint64(exitSignal))
		put64(args[64:], uint64(w.put(ids[:])))
		put64(args[72:], 1)
		w.expect(uintptr(id), fmt.Sprintf("making task %d", id), unix.SYS_CLONE3, w.put(args), 88)
		err := w.work()
		if err == nil {
			break
		}
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("%w: to restore with the same PIDs, be root or have CAP_CHECKPOINT_RESTORE", err)
		}
		if !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		// One that has ended is about to be waited for: the job itself, perhaps.
		st, gone := proc.ReadStat(id)
		if gone == nil && st.State != 'Z' && st.State != 'X' || time.Since(begin) > zombieTime {
			return nil, taken(id, st)
		}
	}
	for {
		status, err := soon(w.child)
		switch {
		case err != nil:
			return nil, fmt.Errorf("task %d: %w", id, err)
		case status.Ended():
			return nil, fmt.Errorf("task %d was killed while it was built", id)
		case status.Event() == unix.PTRACE_EVENT_STOP:
			pid, own := w.child, id
			if flags&unix.CLONE_THREAD != 0 {
				pid, own = w.pid, w.own[0]
			}
			made, err := newWorker(pid, w.child, w.shop)
			if err == nil {
				made.own = [2]int{own, id}
			}
			return made, err
		}
		runtime.Gosched()
	}
}
