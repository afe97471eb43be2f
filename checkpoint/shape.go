package checkpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// shape gives a process its mappings, without what is in them.
func (r *restorer) shape(i int) error {
	w, p := r.built[i], &r.job.Processes[i]
	if w == nil {
		return nil
	}
	if err := r.moveKernel(w, p); err != nil {
		return err
	}
	p.Settings.set(w)
	for _, m := range p.Mappings {
		r.mapIn(w, m)
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.work()
}

// moveKernel unmaps everything but the workshop, and moves vvar and vdso to where
// they were.
func (r *restorer) moveKernel(w *worker, p *Process) error {
	theirs := kernelRun(p.Mappings)
	same := slices.EqualFunc(theirs, r.kernel, func(a, b Mapping) bool { return a.Name == b.Name && a.End-a.Start == b.End-b.Start })
	if !same {
		return fmt.Errorf("process %d: its vdso and vvar are not as this kernel makes them", p.PID)
	}
	move := func(from, to, size uint64) {
		w.expect(uintptr(to), "moving the vdso", unix.SYS_MREMAP, uintptr(from), uintptr(size), uintptr(size), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, uintptr(to))
	}
	at := r.gap
	for _, m := range r.kernel {
		move(m.Start, at, m.End-m.Start)
		at += m.End - m.Start
	}
	unmap := func(from, to uint64) {
		w.do("unmapping", unix.SYS_MUNMAP, uintptr(from), uintptr(to-from))
	}
	unmap(pageSize, r.shop+pageSize) // its program with it
	unmap(r.gapEnd, taskSize)
	at = r.gap
	for i, m := range r.kernel {
		move(at, theirs[i].Start, m.End-m.Start)
		at += m.End - m.Start
	}
	return w.work()
}

// mapIn makes one mapping.
func (r *restorer) mapIn(w *worker, m Mapping) {
	start, size := uintptr(m.Start), uintptr(m.End-m.Start)
	const fixed = unix.MAP_FIXED_NOREPLACE
	mmap := func(flags int, fd, offset uintptr) {
		w.expect(start, fmt.Sprintf("mapping %x-%x", m.Start, m.End), unix.SYS_MMAP, start, size, uintptr(m.Prot), uintptr(flags|fixed), fd, offset)
	}
	flags := m.Flags & (unix.MAP_GROWSDOWN | unix.MAP_NORESERVE)
	switch m.Kind {
	case kindPrivate:
		mmap(unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|flags, ^uintptr(0), 0)
	case kindFile:
		mmap(unix.MAP_PRIVATE|flags, r.mappedFD(m.Object), uintptr(m.Offset))
	case kindSharedFile:
		mmap(unix.MAP_SHARED|flags, r.mappedFD(m.Object), uintptr(m.Offset))
	case kindShared:
		// Of shared memory, mremap of nothing makes another mapping.
		w.expect(start, "mapping shared memory", unix.SYS_MREMAP, uintptr(r.sharedAt[m.Object]+m.Offset), 0, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, start)
		w.do("protecting shared memory", unix.SYS_MPROTECT, start, size, uintptr(m.Prot))
	case kindKernel:
		return
	}
	for _, a := range m.Advices {
		w.do("madvise "+strconv.Itoa(a), unix.SYS_MADVISE, start, size, uintptr(a))
	}
	if m.Kind == kindPrivate && m.Name != "" && m.Name[0] != '[' {
		name := w.put(append([]byte(m.Name), 0))
		w.do("naming memory", unix.SYS_PRCTL, unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME, start, size, name)
	}
}

// The numbers of files in processes that are being built.
func (r *restorer) mappedFD(i int) uintptr { return uintptr(r.base + r.mappedAt + i) }
func (r *restorer) fileFD(i int) uintptr   { return uintptr(r.base + i) }
func (r *restorer) placeFD(i int) uintptr  { return uintptr(r.base + r.placesAt + i) }

// complete gives a process all the rest, when its memory is filled, and leaves
// each of its threads ready to go on.
func (r *restorer) complete(i int) error {
	w, p := r.built[i], &r.job.Processes[i]
	if w == nil {
		return nil
	}
	if err := ptrace.SetSignalMask(w.tid, ^uint64(0)); err != nil {
		return err
	}
	r.layout(w, p)
	for _, m := range p.Mappings {
		if m.Locked {
			w.do("locking memory", unix.SYS_MLOCK, uintptr(m.Start), uintptr(m.End-m.Start))
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
	if err := r.handOut(i, w, p); err != nil {
		return err
	}
	for _, h := range p.Handlers {
		w.do(fmt.Sprintf("handling signal %d", h.Signal), unix.SYS_RT_SIGACTION, uintptr(h.Signal), w.put(h.Action), 0, 8)
	}
	p.Settings.setLast(w)
	r.tell(w, p)
	w.do("umask", unix.SYS_UMASK, uintptr(p.Umask))
	if p.Personality != 0 {
		w.do("personality", unix.SYS_PERSONALITY, uintptr(p.Personality))
	}
	if p.Subreaper != 0 {
		w.do("becoming a subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1)
	}
	if err := w.work(); err != nil {
		return err
	}
	workers := []*worker{w}
	for _, t := range p.Threads[1:] {
		thread, err := w.clone(threadFlags, 0, t.TID)
		if err != nil {
			return err
		}
		r.threads[t.TID] = thread
		workers = append(workers, thread)
	}
	for k := len(workers) - 1; k >= 0; k-- {
		if err := r.completeThread(workers[k], p, &p.Threads[k], k == 0); err != nil {
			return err
		}
	}
	if err := fromOutside(workers, p); err != nil {
		return err
	}
	return r.leaveShop(workers, p)
}

// layout tells the kernel where in memory the parts of the program are.
func (r *restorer) layout(w *worker, p *Process) {
	auxv := w.put(p.Layout.Auxv)
	m := make([]byte, 104) // struct prctl_mm_map
	l := p.Layout
	for i, v := range []uint64{l.StartCode, l.EndCode, l.StartData, l.EndData, l.StartBrk, l.Brk, l.StartStack,
		l.ArgStart, l.ArgEnd, l.EnvStart, l.EnvEnd, uint64(auxv), uint64(len(l.Auxv)) | uint64(r.mappedFD(p.Executable))<<32} {
		put64(m[8*i:], v)
	}
	w.do("setting the layout of its memory", unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, w.put(m), uintptr(len(m)), 0)
}

// handOut gives a process its descriptors and working directory.
func (r *restorer) handOut(i int, w *worker, p *Process) error {
	w.do("working directory", unix.SYS_FCHDIR, r.placeFD(i))
	for _, d := range p.Descriptors {
		flags := 0
		if d.CloseOnExec {
			flags = unix.O_CLOEXEC
		}
		w.do(fmt.Sprintf("descriptor %d", d.FD), unix.SYS_DUP3, r.fileFD(d.File), uintptr(d.FD), uintptr(flags))
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.do("closing the rest", unix.SYS_CLOSE_RANGE, uintptr(r.base), 1<<32-1, 0)
	for _, d := range p.Descriptors {
		f := &r.job.Files[d.File]
		for _, watch := range f.Watch {
			event := make([]byte, 12) // struct epoll_event, packed
			put64(event, uint64(watch.Events)|watch.Data<<32)
			put64(event[8:], watch.Data>>32)
			w.do(fmt.Sprintf("epoll %d watching %d", d.FD, watch.FD), unix.SYS_EPOLL_CTL, uintptr(d.FD), unix.EPOLL_CTL_ADD, uintptr(watch.FD), w.put(event))
			if err := w.flush(); err != nil {
				return err
			}
		}
		f.Watch = nil // for the other processes that have it
	}
	r.sendSignals(w, p)
	if err := w.work(); err != nil {
		return err
	}
	// A POSIX lock goes when any descriptor of its file is closed: none is from here on.
	return r.lock(w, p)
}

// completeThread gives a thread what each has of its own.
func (r *restorer) completeThread(w *worker, p *Process, t *Thread, first bool) error {
	if err := ptrace.SetSignalMask(w.tid, ^uint64(0)); err != nil {
		return err
	}
	w.do("clear_child_tid", unix.SYS_SET_TID_ADDRESS, uintptr(t.ClearTID))
	w.do("alternate stack", unix.SYS_SIGALTSTACK, w.put(clearOnStack(t.Stack)), 0)
	if t.RobustList[0] != 0 {
		w.do("robust list", unix.SYS_SET_ROBUST_LIST, uintptr(t.RobustList[0]), uintptr(t.RobustList[1]))
	}
	if t.Rseq.Address != 0 {
		w.do("restartable sequences", unix.SYS_RSEQ, uintptr(t.Rseq.Address), uintptr(t.Rseq.Size), 0, uintptr(t.Rseq.Signature))
	}
	w.do("name", unix.SYS_PRCTL, unix.PR_SET_NAME, w.put(append([]byte(t.Command), make([]byte, 16)...)))
	t.Settings.set(w)
	if t.TimerSlack != 0 {
		w.do("timer slack", unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, uintptr(t.TimerSlack))
	}
	for _, info := range t.Pending {
		w.do("pending signal", unix.SYS_RT_TGSIGQUEUEINFO, uintptr(w.own[0]), uintptr(w.own[1]), uintptr(get64(info)&0x7f), w.put(info))
	}
	if first {
		for _, info := range p.Pending {
			w.do("pending signal", unix.SYS_RT_SIGQUEUEINFO, uintptr(w.own[0]), uintptr(get64(info)&0x7f), w.put(info))
		}
	}
	if err := w.filter(t); err != nil { // which may need a capability
		return err
	}
	if err := r.identify(w, p.Identity); err != nil {
		return err
	}
	w.do("death signal", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(t.DeathSignal))
	if first {
		// 2 cannot be set, and is what changing users left.
		if p.Dumpable < 2 {
			w.do("dumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, uintptr(p.Dumpable))
		}
		for which, v := range p.Timers {
			if v == (Timer{}) {
				continue
			}
			value := make([]byte, 32)
			for k := range v {
				put64(value[8*k:], uint64(v[k]))
			}
			w.do("interval timer", unix.SYS_SETITIMER, uintptr(which), w.put(value), 0)
		}
		if err := makeTimers(w, p); err != nil {
			return err
		}
	}
	return w.work()
}

// clearOnStack leaves out that the thread is on its alternate stack, which the
// kernel sees by itself.
func clearOnStack(stack []byte) []byte {
	const onStack = 1 // SS_ONSTACK
	b := slices.Clone(stack)
	b[8] &^= onStack
	return b
}

// fromOutside sets what needs no help of the process.
func fromOutside(workers []*worker, p *Process) error {
	pid := workers[0].pid
	for resource, l := range p.Limits {
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: l[0], Max: l[1]}, nil); err != nil {
			return fmt.Errorf("process %d: its limit %d: %w", p.PID, resource, err)
		}
	}
	if oneLine(pid, "oom_score_adj") != strconv.Itoa(p.OOMScore) {
		if err := os.WriteFile(proc.Path(pid, "oom_score_adj"), []byte(strconv.Itoa(p.OOMScore)), 0); err != nil {
			return err
		}
	}
	for i := range p.Threads {
		t, tid := &p.Threads[i], workers[i].tid
		if err := setScheduling(tid, t.Scheduling); err != nil {
			return fmt.Errorf("task %d: scheduling: %w", t.TID, err)
		}
		if err := setAffinity(tid, t.Affinity); err != nil {
			return fmt.Errorf("task %d: its processors: %w", t.TID, err)
		}
		if ioPriority(tid) != t.IOPriority {
			if err := setIOPriority(tid, t.IOPriority); err != nil {
				return fmt.Errorf("task %d: I/O priority: %w", t.TID, err)
			}
		}
	}
	return nil
}

// leaveShop unmaps the workshop, and sets all registers.
func (r *restorer) leaveShop(workers []*worker, p *Process) error {
	instruction, err := callInVDSO(workers[0].pid, p)
	if err != nil {
		return err
	}
	if err := workers[0].last(instruction, unix.SYS_MUNMAP, uintptr(r.shop), uintptr(r.gapEnd-r.shop)); err != nil {
		return fmt.Errorf("process %d: leaving the workshop: %w", p.PID, err)
	}
	for i, w := range workers {
		t := &p.Threads[i]
		if err := ptrace.SetRegisterSet(w.tid, ptrace.ExtendedState, t.State); err != nil {
			return fmt.Errorf("task %d: this processor does not have the registers that it needs: %w", t.TID, err)
		}
		regs := t.Registers
		if err := ptrace.SetRegisters(w.tid, &regs); err != nil {
			return fmt.Errorf("task %d: its registers: %w", t.TID, err)
		}
		if err := ptrace.SetSignalMask(w.tid, t.Blocked); err != nil {
			return err
		}
		if !p.Stopped { // else it sleeps all of it when it goes on
			w.left = t.Left
		}
	}
	return nil
}
