package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// Some things only a process itself can ask the kernel: what it does with
// signals, where its alternate stacks are. So a stopped thread of it is made to
// ask. It must not be harmed when this program is killed meanwhile, at whatever
// instruction. So the call is made from a piece of code that puts the thread's
// own registers and signal mask back right after it, by rt_sigreturn from a
// frame that was written before. The registers are set to that code in one
// system call, before anything else is changed; and when all was asked, ptrace
// puts them back, and the code is never reached.
//
// The code goes into the unused end of the vdso's last page, and so does the
// frame, where it is small enough; else that goes to where nothing is on the first
// thread's stack, as does what calls write.

// A room is where a process can be made to ask.
type room struct {
	pid     int
	code    uintptr
	frame   uintptr // a multiple of 64
	answers uintptr // of answerSize bytes
	used    []used
	small   bool // the frame has less of the extended state
}

// used is memory that has to be put back.
type used struct {
	at   uintptr
	data []byte
}

const (
	codeSize   = 128 // for guestCode; a multiple of 64
	answerSize = 64
	redZone    = 128 // below the stack pointer, which belongs to the program
)

// newRoom prepares a stopped process. vdso is what the kernel's code is like,
// without the zeros at its end.
func newRoom(p *Process, vdso []byte) (*room, error) {
	r := &room{pid: p.PID}
	kernel := kernelRun(p.Mappings)
	at := kernel[len(kernel)-1]
	is := make([]byte, len(vdso))
	if err := ptrace.Peek(p.PID, uintptr(at.Start), is); err != nil {
		return nil, err
	}
	if !bytes.Equal(is, vdso) {
		return nil, errors.New("its vdso is not the kernel's")
	}
	end := uintptr(at.End)
	r.code = alignUp(uintptr(at.Start)+uintptr(len(vdso)), 64)
	if r.code+codeSize > end {
		return nil, errors.New("there is no room in its vdso")
	}
	// The smaller frame lacks the protection keys, which only a program that has
	// such keys would miss, and only when this program is killed now.
	err := r.findPlace(p, r.code+codeSize, end)
	if err != nil && smallerFrames(p) {
		r.small = true
		err = r.findPlace(p, r.code+codeSize, end)
	}
	if err != nil {
		return nil, err
	}
	return r, ptrace.Poke(p.PID, r.code, guestCode)
}

func smallerFrames(p *Process) bool {
	for i := range p.Threads {
		if !fitsSmaller(&p.Threads[i]) {
			return false
		}
	}
	return true
}

func alignUp(n, to uintptr) uintptr { return (n + to - 1) / to * to }

// findPlace finds room for a frame and for answers. A killed one of our kind may
// have left something in the vdso; that is not in the way.
func (r *room) findPlace(p *Process, tail, end uintptr) error {
	frame := uintptr(0)
	for i := range p.Threads {
		frame = max(frame, uintptr(frameSize(&p.Threads[i], r.small)))
	}
	var low, high uintptr // what is unused of the stack
	ours := false         // we were there, and were killed
	for _, m := range p.Mappings {
		if m.Name != "[stack]" || m.Prot&unix.PROT_WRITE == 0 {
			continue
		}
		low = uintptr(m.Start)
		if sp := p.Threads[0].Registers.SP(); sp > low+redZone && sp < uintptr(m.End) {
			high = sp - redZone
		} else if high = low + 4*pageSize; r.marked(low) {
			ours = true
		} else if !r.unused(low, high) { // it is on another stack
			high = low
		}
	}
	r.answers, r.frame = low, tail
	low += answerSize
	if tail+frame > end {
		r.frame = low
		low += frame
	}
	if r.answers == 0 || low > high {
		return fmt.Errorf("there is no room left on its first thread's stack: %#x to %#x for %d bytes", low, high, frame)
	}
	r.used = []used{{r.code, make([]byte, codeSize)}, {r.frame, make([]byte, frame)}, {r.answers, make([]byte, answerSize)}}
	for _, u := range r.used {
		if ours || u.at >= r.code && u.at < end {
			continue // it was zero
		}
		if err := ptrace.Peek(p.PID, u.at, u.data); err != nil {
			return err
		}
	}
	return ptrace.Poke(p.PID, r.answers+markAt, []byte(mark))
}

// A mark stands beside the answers.
const (
	mark   = "freezer was here"
	markAt = answerSize - uintptr(len(mark))
)

// marked says whether one that was killed has left answers at an address.
func (r *room) marked(answers uintptr) bool {
	b := make([]byte, len(mark))
	return ptrace.Peek(r.pid, answers+markAt, b) == nil && string(b) == mark
}

// unused says whether memory is all zero.
func (r *room) unused(from, to uintptr) bool {
	b := make([]byte, to-from)
	return ptrace.Peek(r.pid, from, b) == nil && bytes.Equal(b, make([]byte, len(b)))
}

// close leaves all as it was.
func (r *room) close() error {
	var errs []error
	for _, u := range r.used {
		errs = append(errs, ptrace.Poke(r.pid, u.at, u.data))
	}
	return errors.Join(errs...)
}

// A guest is a stopped thread that is made to ask.
type guest struct {
	*room
	tid   int
	own   ptrace.Regs
	mask  uint64
	stops []unix.Signal // that it could not take meanwhile

	filters []Filter
}

// enter prepares a thread. From here until leave it can ask.
func (r *room) enter(t *Thread) (*guest, error) {
	g := &guest{room: r, tid: t.TID, own: t.Registers, mask: t.Blocked, filters: t.Filters}
	if len(t.Filters) > 0 {
		if err := allows(t.Filters, false, r.code+returnAt, unix.SYS_RT_SIGRETURN, nil); err != nil {
			return nil, err
		}
		if err := suspend(t.TID, stopOptions); err != nil {
			return nil, err
		}
	}
	if err := ptrace.Poke(r.pid, r.frame, signalFrame(r.frame, t, r.small)); err != nil {
		return nil, err
	}
	back := g.own
	toReturn(&back, r)
	if err := ptrace.SetRegisters(t.TID, &back); err != nil {
		return nil, err
	}
	return g, ptrace.SetSignalMask(t.TID, ^uint64(0))
}

// leave puts the thread back. It is left in the kind of stop in which it was
// found, where the kernel decides whether its own call starts again.
func (g *guest) leave() error {
	if err := ptrace.Interrupt(g.tid); err != nil {
		return err
	}
	if err := ptrace.Continue(g.tid, 0); err != nil {
		return err
	}
	for {
		status, err := soon(g.tid)
		if err != nil {
			return err
		}
		if status.Ended() {
			return unix.ESRCH
		}
		if status.Event() == unix.PTRACE_EVENT_STOP {
			break
		}
		if sig := status.Signal(); sig != unix.SIGTRAP { // SIGTRAP is the stop of a system call
			g.stops = append(g.stops, sig)
		}
		if err := ptrace.Continue(g.tid, 0); err != nil {
			return err
		}
	}
	if err := ptrace.SetSignalMask(g.tid, g.mask); err != nil {
		return err
	}
	err := ptrace.SetRegisters(g.tid, &g.own)
	if len(g.filters) > 0 {
		err = errors.Join(err, ptrace.SetOptions(g.tid, stopOptions))
	}
	for _, sig := range g.stops { // SIGSTOP, which cannot be blocked: it waits for the end now
		_ = unix.Tgkill(g.pid, g.tid, sig)
	}
	return err
}

// soon is the next stop of a task that comes at once.
func soon(tid int) (ptrace.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	return patiently(ctx, tid)
}

// call makes the thread do a system call.
func (g *guest) call(nr int, args ...uintptr) (int, error) {
	if err := allows(g.filters, true, g.code, nr, args); err != nil {
		return 0, err
	}
	regs := g.own
	toCall(&regs, g.room, nr, args)
	if err := ptrace.SetRegisters(g.tid, &regs); err != nil {
		return 0, err
	}
	for stops := 0; stops < 2; { // at its entry, and at its exit
		if err := ptrace.NextSyscall(g.tid, 0); err != nil {
			return 0, err
		}
		status, err := soon(g.tid)
		switch sig := status.Signal(); {
		case err != nil:
			return 0, err
		case status.Ended():
			return 0, unix.ESRCH
		case sig == unix.SIGTRAP:
			stops++
		case sig != 0:
			g.stops = append(g.stops, sig)
		}
	}
	after, err := ptrace.Registers(g.tid)
	if err != nil {
		return 0, err
	}
	if n := after.Result(); n < 0 && n > -4096 {
		return 0, unix.Errno(-n)
	}
	return after.Result(), nil
}

// ask is call for one that writes its answer at an address.
func (g *guest) ask(answer []byte, nr int, args ...uintptr) error {
	if _, err := g.call(nr, args...); err != nil {
		return fmt.Errorf("task %d could not be asked (system call %d): %w", g.tid, nr, err)
	}
	return ptrace.Peek(g.pid, g.answers, answer)
}

// ask asks a stopped process for all that is not seen from without. With fork set
// it also makes a copy of it, which is left to be asked for what a copy inherits, and
// begins to track it if that is wanted and not done.
func (s *survey) ask(p *Process, fork bool, since *tracking) (c *copied, err error) {
	r, err := newRoom(p, s.code)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", p.PID, err)
	}
	for i := range p.Threads {
		t := &p.Threads[i]
		g, err := r.enter(t)
		if err != nil {
			return c, errors.Join(fmt.Errorf("process %d: %w", p.PID, err), r.close())
		}
		err = g.askThread(t)
		if err == nil && i == 0 {
			err = g.askProcess(p)
		}
		if err == nil && i == 0 {
			err = s.askTold(g, p)
		}
		switch {
		case err != nil || i > 0:
		case fork:
			c, err = g.fork(p, since)
			s.tracked[p.PID] = s.tracked[p.PID] || since != nil // so its mappings show it
		default:
			err = g.askInherited(p)
		}
		if err = errors.Join(err, g.leave()); err != nil {
			return c, errors.Join(fmt.Errorf("process %d: %w", p.PID, err), r.close())
		}
	}
	return c, r.close()
}

// askThread asks for what each thread has of its own.
func (g *guest) askThread(t *Thread) error {
	t.Stack = make([]byte, 24)
	var word [8]byte
	err := g.ask(t.Stack, unix.SYS_SIGALTSTACK, 0, g.answers)
	if err == nil {
		err = g.ask(word[:], unix.SYS_PRCTL, unix.PR_GET_TID_ADDRESS, g.answers)
		t.ClearTID = get64(word[:])
	}
	if err == nil {
		err = g.ask(word[:4], unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, g.answers)
		t.DeathSignal = int32(get64(word[:]))
	}
	return err
}

// askProcess asks for what a process has of its own, and a copy of it does not.
func (g *guest) askProcess(p *Process) error {
	var word [8]byte
	if err := g.ask(word[:4], unix.SYS_PRCTL, unix.PR_GET_CHILD_SUBREAPER, g.answers); err != nil {
		return err
	}
	p.Subreaper = int32(get64(word[:]))
	for which := range p.Timers {
		var value [32]byte
		if err := g.ask(value[:], unix.SYS_GETITIMER, uintptr(which), g.answers); err != nil {
			return err
		}
		for i := range p.Timers[which] {
			p.Timers[which][i] = int64(get64(value[8*i:]))
		}
	}
	if err := g.askMembarrier(&p.Settings); err != nil {
		return err
	}
	return g.askTimers(p)
}

// askInherited asks for what a copy of the process has, too.
func (g *guest) askInherited(p *Process) error {
	brk, err := g.call(unix.SYS_BRK, 0)
	if err != nil {
		return err
	}
	p.Layout.Brk = uint64(brk)
	if p.Dumpable, err = g.call(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE); err != nil {
		return err
	}
	if p.Identity.SecureBits, err = g.call(unix.SYS_PRCTL, unix.PR_GET_SECUREBITS); err != nil {
		return err
	}
	if err := g.askSettings(&p.Settings); err != nil {
		return err
	}
	p.Handlers = nil
	status, err := kernfs.ReadFile(proc.Path(g.pid, "status"))
	if err != nil {
		return err
	}
	changed := uint64(1) << (unix.SIGCHLD - 1) // by default it may still have flags
	for _, field := range []string{"SigCgt", "SigIgn"} {
		set, _ := strconv.ParseUint(proc.StatusField(status, field), 16, 64)
		changed |= set
	}
	for sig := 1; sig <= 64; sig++ {
		if changed>>(sig-1)&1 == 0 || sig == int(unix.SIGKILL) || sig == int(unix.SIGSTOP) {
			continue
		}
		action := make([]byte, 32)
		if err := g.ask(action, unix.SYS_RT_SIGACTION, uintptr(sig), 0, g.answers, 8); err != nil {
			return err
		}
		p.Handlers = append(p.Handlers, Handler{sig, action})
	}
	return nil
}

func get64(b []byte) (v uint64) {
	for i := range min(8, len(b)) {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

func put64(b []byte, v uint64) {
	for i := range min(8, len(b)) {
		b[i] = byte(v >> (8 * i))
	}
}
