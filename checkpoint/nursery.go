package checkpoint

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// The nursery is the first process, from which all others are forked. It has what
// they share: the open files, and the shared memory. It is not part of the job,
// and is killed when all is built.

// gapsBegin is where a place for the workshop is looked for, which every process
// must have free.
const (
	gapsBegin = 0x10000000
	gapAlign  = 1 << 21
	taskSize  = 1<<47 - pageSize
	moveSize  = 1 << 20 // for vdso and vvar on their way
)

// findGap finds addresses at which no process has anything.
func (r *restorer) findGap() error {
	need := uint64(shopSize + moveSize)
	for _, s := range r.job.Shared {
		r.sharedAt = append(r.sharedAt, need)
		if s.inMemory() {
			need += s.Size
		}
	}
	var taken []Mapping
	for _, p := range r.job.Processes {
		taken = append(taken, p.Mappings...)
	}
	slices.SortFunc(taken, func(a, b Mapping) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	at := uint64(gapsBegin)
	for _, m := range taken {
		if m.End <= at {
			continue
		}
		if m.Start > at && m.Start-at >= need {
			break
		}
		at = (m.End + gapAlign - 1) / gapAlign * gapAlign
	}
	// The top is the kernel's, which puts a new program's stack there.
	if need > maxAddr || at+need > 0x7e0000000000 {
		return fmt.Errorf("the job leaves no room in its address space to build it: %d bytes", need)
	}
	r.shop, r.gap, r.gapEnd = at, at+shopSize, at+need
	for i := range r.sharedAt {
		r.sharedAt[i] += at
	}
	return nil
}

// startNursery starts the first process.
func (r *restorer) startNursery() error {
	program, err := unix.MemfdCreate("freezer-restore", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(program)
	if _, err := unix.Write(program, workshop(r.shop, shopSize)); err != nil {
		return err
	}
	fds := make([]uintptr, r.base+len(r.files))
	for i := range fds {
		fds[i] = ^uintptr(0)
	}
	for i, f := range r.files {
		fds[r.base+i] = uintptr(f)
	}
	attributes := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if r.own != nil {
		attributes.Cloneflags = unix.CLONE_NEWPID
	}
	pid, err := syscall.ForkExec(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), program), []string{"freezer-restore"}, &syscall.ProcAttr{
		Files: fds,
		Sys:   attributes,
	})
	if err != nil {
		return fmt.Errorf("the first process cannot be started: %w", err)
	}
	r.nursery = &worker{pid: pid, tid: pid}
	if err := ptrace.Seize(pid, builderOptions); err != nil {
		return err
	}
	if err := ptrace.Interrupt(pid); err != nil {
		return err
	}
	if status, err := soon(pid); err != nil || status.Event() != unix.PTRACE_EVENT_STOP {
		return fmt.Errorf("the first process did not stop: %w", err)
	}
	w, err := newWorker(pid, pid, r.shop)
	if err != nil {
		return err
	}
	r.nursery = w
	if r.own != nil {
		w.own = [2]int{1, 1}
	}
	state, err := ptrace.RegisterSet(pid, ptrace.ExtendedState)
	if err != nil {
		return err
	}
	if r.job.Features&^features(state) != 0 || len(state) != len(r.job.Processes[0].stateOf()) {
		return fmt.Errorf("this processor does not have the registers that the job uses, or more of them: it has %#x (XCR0), the job %#x", features(state), r.job.Features)
	}
	// The job may have descriptors of higher numbers than this program may.
	var files unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &files); err == nil {
		files.Cur = files.Max
		_ = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &files, nil)
	}
	// Only the signals of the job are for it, and those come later; but zombies of
	// the job must be able to tell their parents, who do not listen yet.
	if err := ptrace.SetSignalMask(pid, ^uint64(1<<(unix.SIGCHLD-1))); err != nil {
		return err
	}
	if err := w.write(uintptr(r.shop)+shopCode, workerCode); err != nil {
		return err
	}
	return r.findKernelMappings()
}

func (r *restorer) findKernelMappings() error {
	text, err := kernfs.ReadFile(proc.Path(r.nursery.pid, "maps"))
	if err != nil {
		return err
	}
	areas, err := parseAreas(text)
	for _, a := range areas {
		if a.name == "[vdso]" || strings.HasPrefix(a.name, "[vvar") {
			r.kernel = append(r.kernel, Mapping{Start: a.start, End: a.end, Name: a.name})
		}
	}
	return err
}

// makeShared makes the shared memory, where all processes inherit it.
func (r *restorer) makeShared() error {
	for i, s := range r.job.Shared {
		if s.Contents != nil {
			if s.inMemory() {
				if err := r.makeSystemV(i); err != nil {
					return err
				}
			}
			continue
		}
		at := uintptr(r.sharedAt[i])
		r.nursery.expect(at, "making shared memory", unix.SYS_MMAP, at, uintptr(s.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uintptr(0), 0)
	}
	return r.nursery.work()
}

// makeTree makes all processes, with their parents, sessions, process groups and
// groups.
func (r *restorer) makeTree(f *freezer.Freezer) error {
	r.built = make([]*worker, len(r.job.Processes))
	r.threads = map[int]*worker{}
	flags, exitSignal := uint64(unix.CLONE_PARENT), 0
	if r.own != nil { // where the nursery stays
		flags, exitSignal = 0, int(unix.SIGCHLD)
	}
	for _, p := range r.job.roots() {
		if err := r.spawn(r.nursery, flags, exitSignal, p); err != nil {
			return err
		}
	}
	for i := range r.job.Processes {
		p := &r.job.Processes[i]
		w := r.byPID[p.PID]
		if p.Ended == nil {
			r.built[i] = w
		}
		if p.ProcessGroup == p.PID && p.Session != p.PID {
			w.do("leading a process group", unix.SYS_SETPGID, 0, 0)
			if err := w.work(); err != nil {
				return err
			}
		}
		if err := r.intoGroup(f, p); err != nil {
			return err
		}
	}
	for i := range r.job.Processes {
		p := &r.job.Processes[i]
		w := r.byPID[p.PID]
		if p.ProcessGroup != p.PID && p.ProcessGroup != 0 {
			w.do("joining a process group", unix.SYS_SETPGID, 0, uintptr(p.ProcessGroup))
			if err := w.work(); err != nil {
				return err
			}
		}
	}
	for i := range r.job.Processes {
		if p := &r.job.Processes[i]; p.Ended != nil {
			if err := r.becomeZombie(r.byPID[p.PID], *p.Ended); err != nil {
				return err
			}
		}
	}
	return r.stopAgain()
}

// spawn makes a process and all below it. Children that are in the session which
// it had before it led one of its own are made before it does.
func (r *restorer) spawn(parent *worker, flags uint64, exitSignal int, p *Process) error {
	w, err := parent.clone(flags, exitSignal, p.PID)
	if err != nil {
		return err
	}
	r.byPID[p.PID] = w
	children := func(before bool) error {
		for i := range r.job.Processes {
			c := &r.job.Processes[i]
			earlier := p.Session == p.PID && c.Session != p.PID && c.Session != c.PID
			if c.Parent == p.PID && earlier == before {
				if err := r.spawn(w, 0, int(unix.SIGCHLD), c); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := children(true); err != nil {
		return err
	}
	if p.Session == p.PID {
		w.do("leading a session", unix.SYS_SETSID)
		r.takeTerminal(w, p)
		if err := w.work(); err != nil {
			return err
		}
	}
	return children(false)
}

// intoGroup moves a process to its group below the job's.
func (r *restorer) intoGroup(f *freezer.Freezer, p *Process) error {
	if p.Group == "" || p.Ended != nil {
		return nil
	}
	g, err := f.CreateAll(path.Join(r.group.Name(), p.Group))
	if err == nil {
		err = g.Add(r.byPID[p.PID].pid)
		g.Close()
	}
	return err
}

// becomeZombie ends a process for which its parent has not waited yet.
func (r *restorer) becomeZombie(w *worker, status int) error {
	ws := unix.WaitStatus(status)
	if ws.Signaled() {
		// It takes the signal before it could run.
		_ = unix.Prlimit(w.pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
		if err := ptrace.SetSignalMask(w.tid, 0); err != nil {
			return err
		}
		if err := unix.Kill(w.pid, ws.Signal()); err != nil {
			return err
		}
		if err := ptrace.Continue(w.tid, 0); err != nil {
			return err
		}
	} else {
		regs := w.regs
		list := make([]byte, callSize)
		put64(list, unix.SYS_EXIT_GROUP)
		put64(list[8:], uint64(ws.ExitStatus()))
		if err := w.write(uintptr(w.shop)+shopList, list); err != nil {
			return err
		}
		toWork(&regs, uintptr(w.shop)+shopCode, uintptr(w.shop)+shopList, 1, w.own[0], w.own[1])
		if err := ptrace.SetRegisters(w.tid, &regs); err != nil {
			return err
		}
		if err := ptrace.Continue(w.tid, 0); err != nil {
			return err
		}
	}
	for {
		end, err := soon(w.tid)
		if err != nil {
			return err
		}
		if end.Ended() {
			return nil
		}
		if err := ptrace.Continue(w.tid, end.Signal()); err != nil {
			return err
		}
	}
}
