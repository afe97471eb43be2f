package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A stopped job is held by ptrace, each task in a stop on its way out of the
// kernel, where its system call can be started again. Nothing else holds it: when
// this program is killed the kernel lets go of the tasks, and they run on. (The
// group's freezer would keep them frozen then; and nobody can be asked anything
// who is frozen.)
//
// All is done by one thread, as ptrace wants it.
type stopped struct {
	tids   []int
	seized []int // of them, those not yet seen in their stop
	when   time.Time
	lasted time.Duration      // until it was released
	calls  *invisible.Session // from before the stop
	minder *invisible.Minder  // of calls whose timeouts would begin anew
}

// stopTime bounds the wait for tasks to stop.
const stopTime = 5 * time.Second

// vforkTime is how long a task may sleep uninterruptibly before errVfork.
const vforkTime = 20 * time.Millisecond

// errVfork is of a task that does not stop before its child, which may have been
// stopped, has started a program. Another try, a moment later, helps.
var errVfork = errors.New("a task waits, uninterruptibly, for its child to start a program, or for a device")

func newStopped(calls *invisible.Session) *stopped {
	return &stopped{when: time.Now(), calls: calls, minder: invisible.NewMinder()}
}

// stop stops all tasks of the group and of those below it. It looks for tasks
// until there is none that runs: then nobody is left who could start one.
func (s *stopped) stop(ctx context.Context, g *freezer.Group) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	for {
		for len(s.seized) > 0 {
			tid := s.seized[0]
			s.seized = s.seized[1:]
			if err := s.await(ctx, tid); err != nil {
				return err
			}
		}
		if err := s.seizeAll(g); err != nil || len(s.seized) == 0 {
			return err
		}
	}
}

// seizeAll has all tasks stop that have not yet, and does not wait for it. Those
// that are frozen stop when they are thawed, before they run.
func (s *stopped) seizeAll(g *freezer.Group) error {
	found, err := tasks(g)
	if err != nil {
		return err
	}
	for _, tid := range found {
		if slices.Contains(s.tids, tid) {
			continue
		}
		if err := s.seize(tid); err != nil {
			return err
		}
	}
	return nil
}

// tasks lists the tasks of a group and of those below it that have not ended.
func tasks(g *freezer.Group) (tids []int, err error) {
	groups, err := g.Walk()
	if err != nil {
		return nil, err
	}
	for _, sub := range groups {
		pids, err := sub.Processes()
		sub.Close()
		if err != nil && !errors.Is(err, freezer.ErrNotExist) {
			return nil, err
		}
		for _, pid := range pids {
			for _, tid := range proc.Threads(pid) {
				if st, err := proc.ReadStat(tid); err == nil && st.State != 'Z' && st.State != 'X' {
					tids = append(tids, tid)
				}
			}
		}
	}
	return tids, nil
}

// seize has a task stop. One that ends meanwhile is left out.
func (s *stopped) seize(tid int) error {
	switch err := ptrace.Seize(tid, stopOptions); err {
	case nil:
		s.tids, s.seized = append(s.tids, tid), append(s.seized, tid)
		_ = ptrace.Interrupt(tid)
	case unix.ESRCH:
	default:
		if st, e := proc.ReadStat(tid); e != nil || st.State == 'Z' || st.State == 'X' {
			return nil
		}
		if invisible.LetGo(tid) {
			return s.seize(tid)
		}
		if by := proc.Status(tid, "TracerPid"); by != "0" {
			return fmt.Errorf("task %d cannot be stopped: it is traced by process %s", tid, by)
		}
		return fmt.Errorf("task %d cannot be stopped: %w", tid, err)
	}
	return nil
}

// await waits until a task is in the stop that its interrupt asked for. A signal
// that it was about to take it takes first: that runs none of its code.
func (s *stopped) await(ctx context.Context, tid int) error {
	for {
		slice, cancel := context.WithTimeout(ctx, vforkTime)
		status, err := patiently(slice, tid)
		cancel()
		if err == context.DeadlineExceeded && ctx.Err() == nil {
			if st, e := proc.ReadStat(tid); e == nil && st.State == 'D' {
				return errVfork
			}
			continue
		}
		switch {
		case err == unix.ECHILD || status.Ended():
			s.tids = slices.DeleteFunc(s.tids, func(t int) bool { return t == tid })
			return nil
		case err != nil:
			st, _ := proc.ReadStat(tid)
			return fmt.Errorf("task %d (%s) does not stop: it is in state %c, in %s", tid, st.Command, st.State, proc.WaitChannel(tid))
		case status.Event() == unix.PTRACE_EVENT_STOP:
			// What its system call is to do is decided here, once.
			return s.minder.Amend(tid, status, s.calls)
		}
		if err := ptrace.Continue(tid, status.Signal()); err != nil && err != unix.ESRCH {
			return err
		}
	}
}

// patiently waits for a task's next stop until ctx ends. It lets other threads run
// by the system's calls: to give up a goroutine that is locked to its thread, and to
// have it back, takes longer than the task needs.
func patiently(ctx context.Context, tid int) (ptrace.Status, error) {
	for nap := 20 * time.Microsecond; ; nap = min(2*nap, 10*time.Millisecond) {
		for range 100 {
			status, err := ptrace.Poll(tid)
			if err != nil || status.Stopped() || status.Ended() {
				return status, err
			}
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		if ctx.Err() != nil {
			return ptrace.Status{}, ctx.Err()
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(nap)}, nil)
	}
}

// forget has the timeouts of calls begin anew, so that nobody needs to mind them.
func (s *stopped) forget() {
	for _, tid := range s.minder.Tasks() {
		s.minder.Forget(tid)
	}
}

// letRun lets some go on, whose timeouts begin anew.
func (s *stopped) letRun(tids []int) {
	s.tids = slices.DeleteFunc(slices.Clone(s.tids), func(tid int) bool {
		if !slices.Contains(tids, tid) {
			return false
		}
		s.minder.Forget(tid)
		return ptrace.Detach(tid, 0) == nil
	})
}

// release lets all tasks go on, as if nothing had been: those in calls with a
// timeout as tracees of the minder, until the calls return. Those that were killed
// meanwhile it reaps, so that their parents learn of it; a process's first thread
// comes last.
func (s *stopped) release() {
	var late []int
	for _, tid := range s.tids {
		if s.minder.Release(tid, 0) == nil {
			continue
		}
		st, err := proc.ReadStat(tid)
		ended := err == nil && (st.State == 'Z' || st.State == 'X')
		if ours := ended && proc.Process(tid) == tid && st.Parent == os.Getpid(); err == nil && !ours { // our own child is ours to wait for
			late = append(late, tid)
		}
	}
	// They have not stopped yet, or have ended. One may wait for another: who made a
	// vfork for its child, and a process's first thread for all others of it.
	for begun := time.Now(); len(late) > 0 && time.Since(begun) < stopTime; time.Sleep(100 * time.Microsecond) {
		late = slices.DeleteFunc(late, func(tid int) bool {
			status, err := ptrace.Poll(tid)
			return err != nil || status.Ended() || status.Stopped() && ptrace.Detach(tid, status.Signal()) == nil
		})
	}
	if s.tids != nil {
		s.lasted = time.Since(s.when)
	}
	s.tids, s.seized = nil, nil
}
