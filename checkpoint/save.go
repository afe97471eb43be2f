package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// Leave is what becomes of a group when its image is written.
type Leave string

// What can become of a group.
const (
	Running Leave = "running" // it goes on, as if nothing had been
	Frozen  Leave = "frozen"  // it is frozen, under the default hold
	Killed  Leave = "killed"
)

// SaveOptions say how a group is to be checkpointed.
type SaveOptions struct {
	Leave Leave // empty: Running
}

func (o SaveOptions) running() bool { return o.Leave == "" || o.Leave == Running }

// Stats are the costs of a checkpoint.
type Stats struct {
	Processes int           `json:"processes"`
	Tasks     int           `json:"tasks"`
	Bytes     int64         `json:"bytes"` // of the image
	Stopped   time.Duration `json:"stopped_ns"`
}

// Save writes an image of the group's processes, and of those below it, to w.
// They are stopped meanwhile, and go on afterwards, or are frozen or killed. When
// it fails, or when this program is killed at whatever moment, they go on as if
// nothing had been.
//
// A RefusedError lists what the image would not carry. A group that is frozen is
// refused, too: its processes have to be asked what only they can tell, and only
// tasks that could run can be asked.
func Save(ctx context.Context, g *freezer.Group, w io.Writer, o SaveOptions) (Stats, error) {
	return save(ctx, g, w, o, func() error { return nil })
}

// spool is how much of an image is kept in memory, so that a small job goes on
// before its image is written out.
const spool = 16 << 20

// save calls commit when all is written, before anything is killed or frozen and
// after everything runs again.
func save(ctx context.Context, g *freezer.Group, w io.Writer, o SaveOptions, commit func() error) (stats Stats, err error) {
	if err := supported(); err != nil {
		return stats, err
	}
	if states, err := g.States(); err != nil {
		return stats, err
	} else if states.Effective != freezer.Thawed {
		return stats, fmt.Errorf("%s is frozen: thaw it first (it is stopped only while it is read; --leave frozen freezes it then)", g.Name())
	}
	s, err := newSurvey(g)
	if err != nil {
		return stats, err
	}
	to := bufio.NewWriterSize(w, spool)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	held, err := stop(ctx, g)
	defer func() { held.release() }()
	if err == nil {
		err = s.take(held)
	}
	for begun := time.Now(); (errors.Is(err, errReturning) || errors.Is(err, errVfork)) && time.Since(begun) < stopTime; {
		held.release()
		time.Sleep(time.Millisecond)
		if s, err = newSurvey(g); err != nil {
			return stats, err
		}
		if held, err = stop(ctx, g); err == nil {
			err = s.take(held)
		}
	}
	if err == nil {
		err = s.write(to, &stats)
	}
	safe := func() error { return errors.Join(to.Flush(), commit()) }
	if err == nil && !o.running() { // nobody ends before his image is safe
		if err = safe(); err == nil {
			err = finish(ctx, g, o.Leave)
		}
	}
	held.release()
	stats.Stopped = time.Since(held.when)
	if err == nil && o.running() {
		err = safe()
	}
	return stats, err
}

// take finds out all about the stopped processes, but for what is in their memory.
func (s *survey) take(held *stopped) error {
	if err := s.members(); err != nil {
		return err
	}
	s.all()
	s.readPipes()
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		for k := range p.Threads {
			t := &p.Threads[k]
			if !slices.Contains(held.tids, t.TID) {
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
		if p := &s.job.Processes[i]; p.Ended == nil && s.returning(p) {
			return errReturning
		}
	}
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		if p.Ended != nil {
			continue
		}
		if err := s.ask(p); err != nil {
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

// errReturning is of a job whose last checkpoint was killed so short a time ago
// that one of its threads still has to put its own registers back, which it does as
// soon as it runs. See guest.go.
var errReturning = errors.New("a task has not gone on since a checkpoint of it was killed")

// returning says whether a thread of a process is in the code that a killed
// checkpoint left it in.
func (s *survey) returning(p *Process) bool {
	run := kernelRun(p.Mappings)
	for i := range p.Threads {
		vdso := run[len(run)-1]
		if pc := uint64(p.Threads[i].Registers.PC()); pc >= vdso.Start+uint64(len(s.code)) && pc < vdso.End {
			return true
		}
	}
	return false
}

// registers reads what ptrace shows of a stopped thread.
func (s *survey) registers(p *Process, t *Thread) error {
	status, err := ptrace.Poll(t.TID)
	if err != nil {
		return err
	}
	if status.GroupStop() {
		s.hinder(p.PID, "process", "it is stopped by a signal (SIGSTOP or ^Z)")
	}
	regs, err := ptrace.Registers(t.TID)
	if err == unix.EOPNOTSUPP {
		s.hinder(p.PID, "process", "it runs 32-bit code")
		return nil
	}
	if err != nil {
		return err
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

// write writes the image.
func (s *survey) write(to io.Writer, stats *Stats) error {
	w := &writer{w: to}
	if err := w.begin(s.job); err != nil {
		return err
	}
	memory := &memoryWriter{w: w}
	for i, path := range s.sharedAt {
		if err := memory.shared(i, path, s.job.Shared[i].Size); err != nil {
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
		if err := memory.process(i, p); err != nil {
			return err
		}
	}
	if err := w.end(); err != nil {
		return err
	}
	stats.Bytes = w.bytes
	return nil
}

// finish freezes or kills a group whose tasks are still held.
func finish(ctx context.Context, g *freezer.Group, leave Leave) error {
	switch leave {
	case Frozen:
		return g.Freeze(ctx, freezer.ThawOnTimeout(), freezer.Why("checkpoint"))
	case Killed:
		return g.Kill(ctx)
	}
	return nil
}
