package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A snapshot is all of a group at one moment. While its tasks are stopped only
// that is found out which would change when they go on.
type snapshot struct {
	*survey
	held   *stopped
	waits  map[int]invisible.Wait // by TID, from before the stop
	copies []*copied              // in the order of Job.Processes, when memory is read from copies
	early  []*chunk               // what copies do not have
	since  *tracking              // nil: it is not to be noted what is written from now on
}

// take stops a group, and finds out all about it but for what is in its memory, and
// what copies of its processes can tell.
func take(ctx context.Context, before *survey, since *tracking, copying bool) (s *snapshot, err error) {
	s = &snapshot{held: newStopped(nil), since: since}
	nap := time.Millisecond
	for begun := time.Now(); ; time.Sleep(nap) {
		if s.survey, err = before.again(); err == nil {
			err = s.stop(ctx, copying)
		}
		again := errors.Is(err, errReturning) || errors.Is(err, errVfork) || errors.Is(err, errUnknownCall) && !s.frozen
		switch {
		case again && time.Since(begun) < stopTime:
			s.held.forget()
			s.end()
		case isRefused(err) && !s.frozen && time.Since(begun) < unreadTime:
			// There was no obstacle before the stop: it may be one of a moment, as a file of
			// /proc that top reads.
			s.held.forget()
			s.end()
			nap *= 2
		case errors.Is(err, errUnread) && !s.frozen && time.Since(begun) < unreadTime:
			s.held.letRun(s.readers)
			nap *= 2
		default:
			return s, err
		}
	}
}

// stop stops the tasks, and finds out what they are and know. Of a frozen group they
// are frozen all the time, but for what they are made to do.
func (s *snapshot) stop(ctx context.Context, copying bool) error {
	tids, err := tasks(s.group)
	if err != nil {
		return err
	}
	if s.frozen {
		s.held = newStopped(invisible.New())
		if err := s.held.seizeAll(s.group); err != nil {
			return err
		}
		return s.group.Lifted(func() error { return s.gather(ctx, copying) })
	}
	if len(s.held.tids) == 0 {
		s.held, s.waits = newStopped(nil), map[int]invisible.Wait{}
	}
	maps.DeleteFunc(s.waits, func(tid int, _ invisible.Wait) bool { return !slices.Contains(s.held.tids, tid) })
	tids = slices.DeleteFunc(tids, func(tid int) bool { return slices.Contains(s.held.tids, tid) })
	maps.Copy(s.waits, invisible.Waits(tids))
	s.held.calls = invisible.Prepare(tids)
	return s.gather(ctx, copying)
}

// gather does the part for which the tasks must not be frozen.
func (s *snapshot) gather(ctx context.Context, copying bool) error {
	err := s.held.stop(ctx, s.group)
	s.held.minder.Settle()
	if err == nil {
		err = s.look()
	}
	if err == nil && s.since != nil {
		var much bool
		much, err = s.lookBack()
		copying = copying && much
	}
	if err == nil {
		err = s.askAll(copying)
	}
	return err
}

// lookBack finds what was written since the base, and says whether that is so much
// that to make copies takes less time than to read it, or whether processes are not
// tracked yet, which begins with a copy.
func (s *snapshot) lookBack() (much bool, err error) {
	if s.base != nil && s.base.ID == s.since.since && len(s.since.pages) > 0 {
		s.job.Base = s.base
	}
	var bytes uint64
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		t := s.since.pages[p.PID]
		if p.Ended != nil || t == nil {
			much = much || p.Ended == nil
			continue
		}
		if err := t.look(p); err == unix.ESRCH {
			unix.Close(t.fd)
			delete(s.since.pages, p.PID)
			much = true
			continue
		} else if err != nil {
			return false, err
		}
		for k := range p.Mappings {
			m := &p.Mappings[k]
			if runs, ok := t.writtenIn(m); ok {
				bytes += lengthOf(runs)
			} else if m.Kind == kindPrivate {
				bytes += m.End - m.Start
			}
		}
	}
	return much || s.job.Base == nil || bytes > spool, nil
}

// end lets go of all that the snapshot holds, as if nothing had been.
func (s *snapshot) end() {
	s.held.release()
	s.endCopies()
}

// NeedsMinder says whether tasks of a group are in system calls with a timeout that
// start again when the group is checkpointed and goes on: these end in time only if
// the program that checkpoints it goes on, too (see Stats.Settled).
func NeedsMinder(g *freezer.Group) bool {
	tids, err := tasks(g)
	return err == nil && invisible.Prepare(tids).Timed()
}

// mind waits until a function that it calls has returned, and minds the job's calls
// meanwhile, if it goes on.
func (s *snapshot) mind(do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = do()
	}()
	s.held.minder.Mind(done, nil)
	<-done
	return err
}

func (s *snapshot) endCopies() {
	for _, c := range s.copies {
		if c != nil {
			c.end()
		}
	}
	s.copies = nil
}

// look finds out what is seen from without.
func (s *snapshot) look() error {
	if err := s.members(); err != nil {
		return err
	}
	s.all()
	s.readPipes()
	s.readSockets()
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		for k := range p.Threads {
			t := &p.Threads[k]
			if !slices.Contains(s.held.tids, t.TID) {
				return fmt.Errorf("task %d came to the group meanwhile", t.TID)
			}
			if err := s.registers(p, t); err != nil {
				return fmt.Errorf("task %d: %w", t.TID, err)
			}
		}
	}
	if err := s.refused(); err != nil {
		return err
	}
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		if p.Ended != nil || !s.returning(p) {
			continue
		}
		if p.Stopped {
			if err := s.goBack(p); err != nil {
				return err
			}
		}
		return errReturning
	}
	return s.unread()
}

// askAll has all processes asked what only they can tell, and copies made of them
// if that is wanted: then these are asked what they know as well.
func (s *snapshot) askAll(copying bool) error {
	s.endCopies()
	if copying {
		s.copies = make([]*copied, len(s.job.Processes))
	}
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		if p.Ended != nil {
			continue
		}
		c, err := s.ask(p, copying, s.since)
		if copying {
			s.copies[i] = c
		}
		if err != nil {
			return err
		}
		for k := range p.Threads {
			// What the kernel remembers of such a call is not in the image: it starts
			// again with its arguments.
			if r := &p.Threads[k].Registers; restarts(r) && r.Result() == restartWithRest {
				r.SetResult(restartNoHand)
			}
		}
	}
	return nil
}

// toCopies reads what copies do not have, lets the job go on, and asks the copies
// for what it was not asked.
func (s *snapshot) toCopies() error {
	if err := s.readEarly(); err != nil {
		return err
	}
	s.held.release()
	for i, c := range s.copies {
		if c == nil {
			continue
		}
		p := &s.job.Processes[i]
		c.moveOut(filepath.Join(s.group.Dir(), p.Group), s.group.Backend()) // it may take 20 ms
		if err := c.ask(p); err != nil {
			return fmt.Errorf("the copy of process %d: %w", p.PID, err)
		}
		if !s.unusual(p) {
			if err := s.advise(p, c.pid); err != nil {
				return err
			}
		}
	}
	return s.refused()
}

// readEarly reads shared memory, and what is left out of a fork.
func (s *snapshot) readEarly() error {
	var all sources
	defer all.close()
	if err := s.sharedMemory(&all); err != nil {
		return err
	}
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		if p.Ended != nil || !s.unusual(p) {
			continue
		}
		if err := s.advise(p, p.PID); err != nil {
			return err
		}
		if err := all.process(i, p, p.PID, nil, (*Mapping).uncopied); err != nil {
			return err
		}
	}
	return all.chunks(func(c *chunk) error {
		early := *c
		early.data = slices.Clone(c.data)
		s.early = append(s.early, &early)
		return nil
	})
}

func (s *snapshot) sharedMemory(all *sources) error {
	for i, from := range s.origins {
		if err := all.shared(i, from.path, s.job.Shared[i].Size); err != nil {
			return err
		}
	}
	return nil
}

// uncopied says whether a fork does not have what is in a mapping.
func (m *Mapping) uncopied() bool {
	return slices.Contains(m.Advices, unix.MADV_DONTFORK) || slices.Contains(m.Advices, unix.MADV_WIPEONFORK)
}

// unusual says whether a process has, or had before the stop, a mapping of which a
// copy does not show all: without contents, or with a lock.
func (s *snapshot) unusual(p *Process) bool {
	before, ok := s.before.odd[p.PID]
	return before || !ok || proc.Status(p.PID, "VmLck") != "0 kB"
}

// write writes the image.
func (s *snapshot) write(to io.Writer, o SaveOptions, stats *Stats) error {
	w := &writer{w: to, tell: o.Tell}
	if err := w.begin(s.job); err != nil {
		return err
	}
	if err := w.compress(o.Compress); err != nil {
		return err
	}
	defer func() { _ = w.wait() }()
	for _, c := range s.early {
		if err := w.chunk(c); err != nil {
			return err
		}
	}
	var all sources
	defer all.close()
	if s.copies == nil {
		if err := s.sharedMemory(&all); err != nil {
			return err
		}
	}
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		stats.Processes++
		stats.Tasks += len(p.Threads)
		if p.Ended != nil {
			continue
		}
		pid, wanted := p.PID, func(*Mapping) bool { return true }
		if s.copies != nil {
			pid, wanted = s.copies[i].pid, func(m *Mapping) bool { return !m.uncopied() }
		}
		var since *tracked
		if s.job.Base != nil {
			since = s.since.known(p.PID, s.job.Base.ID)
		}
		if err := all.process(i, p, pid, since, wanted); err != nil {
			return err
		}
	}
	for _, from := range all.same {
		for _, r := range from.runs {
			if err := w.same(from.owner, r); err != nil {
				return err
			}
		}
	}
	if err := all.chunks(w.chunk); err != nil {
		return err
	}
	if err := w.end(); err != nil {
		return err
	}
	stats.Bytes = w.bytes
	return nil
}

// adviseAll finds the flags of all mappings in the processes themselves. Those of
// which little is read keep what was found just before the stop, as to look would
// take longer than all the rest.
func (s *snapshot) adviseAll() error {
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		if p.Ended != nil || s.job.Base != nil && s.advisedBefore(p) {
			continue
		}
		if err := s.advise(p, p.PID); err != nil {
			return err
		}
	}
	return s.refused()
}

// advisedBefore gives a process's mappings the flags from before the stop, if they
// are the same mappings.
func (s *snapshot) advisedBefore(p *Process) bool {
	before := s.before.maps[p.PID]
	if len(before) != len(p.Mappings) {
		return false
	}
	for i := range p.Mappings {
		m, b := &p.Mappings[i], &before[i]
		if m.Start != b.Start || m.End != b.End || m.Prot != b.Prot || m.Kind != b.Kind || m.Offset != b.Offset || m.Name != b.Name ||
			m.Kind == kindSharedFile { // it matters whether it could be written
			return false
		}
	}
	for i := range p.Mappings {
		m, b := &p.Mappings[i], &before[i]
		m.Flags, m.Locked, m.Advices = b.Flags, b.Locked, b.Advices
	}
	return true
}

// errReturning is of a job whose last checkpoint was killed so short a time ago
// that one of its threads still has to put its own registers back, which it does as
// soon as it runs. See guest.go.
var errReturning = errors.New("a task has not gone on since a checkpoint of it was killed")

// returning says whether a thread of a process is in the code that a killed
// checkpoint left it in.
func (s *survey) returning(p *Process) bool {
	return slices.ContainsFunc(p.Threads, func(t Thread) bool { return s.inGuestCode(p, &t.Registers) })
}

// inGuestCode says whether a thread of a process with these registers is in what is
// not the kernel's of the vdso.
func (s *survey) inGuestCode(p *Process, r *ptrace.Regs) bool {
	run := kernelRun(p.Mappings)
	vdso := run[len(run)-1]
	pc := uint64(r.PC())
	return pc >= vdso.Start+uint64(len(s.code)) && pc < vdso.End
}

// errUnknownCall is of a task in a system call that the kernel has started again
// since the tasks were looked at, or before they were frozen.
var errUnknownCall = errors.New("it is in a system call that was interrupted before, and nobody knows which")

// registers reads what ptrace shows of a stopped thread.
func (s *snapshot) registers(p *Process, t *Thread) error {
	status, err := ptrace.Poll(t.TID)
	if err != nil {
		return err
	}
	p.Stopped = p.Stopped || status.GroupStop()
	regs, err := ptrace.Registers(t.TID)
	if err == unix.EOPNOTSUPP {
		s.hinder(p.PID, "process", "it runs 32-bit code")
		return nil
	}
	if err != nil {
		return err
	}
	wait, ok := s.waits[t.TID]
	if !ok {
		wait, ok = invisible.Interrupted(t.TID, regs)
	}
	if regs.Syscall() == unix.SYS_RESTART_SYSCALL && restarts(regs) {
		// Whoever returns from a signal handler, as a guest that loses its tracer does,
		// and whoever is restored, has lost what that would start.
		if !ok {
			return errUnknownCall
		}
		setCall(regs, wait.Call)
	}
	if ok && wait.Timed && restarts(regs) && wait.Call == regs.Syscall() {
		left := wait.Left()
		t.Left = &left
	}
	t.Registers = *regs
	if t.State, err = ptrace.RegisterSet(t.TID, ptrace.ExtendedState); err != nil {
		return err
	}
	s.job.Features |= features(t.State)
	if t.Blocked, err = ptrace.SignalMask(t.TID); err != nil {
		return err
	}
	if t.Rseq, err = ptrace.RestartableSequences(t.TID); err != nil && err != unix.EIO {
		return err
	}
	if yes, err := ptrace.Dispatches(t.TID); yes {
		s.hinder(p.PID, "thread "+strconv.Itoa(t.TID), "its system calls go to itself (PR_SET_SYSCALL_USER_DISPATCH)")
	} else if err != nil && err != unix.EIO { // before Linux 6.4
		return err
	}
	if err := s.filters(p, t); err != nil {
		return err
	}
	if t.Pending, err = queued(t.TID, false); err == nil && t.TID == p.PID {
		p.Pending, err = queued(t.TID, true)
	}
	return err
}

func queued(tid int, shared bool) (all [][]byte, err error) {
	infos, err := ptrace.QueuedSignals(tid, shared)
	for i := range infos {
		all = append(all, infos[i][:])
	}
	return all, err
}
