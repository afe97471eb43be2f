package tracer

import (
	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// After an invisible thaw some tasks stay tracees, and run: those whose calls
// started again and have to end in time. They are no tasks of this package until
// they are frozen again.

// letRun lets a stopped tracee go, or has its call minded. The error is ESRCH when
// it is not stopped any more.
func (t *tracer) letRun(tid int, stop ptrace.Status, s *invisible.Session) error {
	if s == nil && !t.minder.Minds(tid) {
		return ptrace.Detach(tid, stop.Signal())
	}
	return t.minder.Resume(tid, stop, s)
}

// mind attends to the calls of the tasks that run.
func (t *tracer) mind() {
	for _, tid := range t.minder.Tasks() {
		if t.tasks[tid] != nil {
			continue // it is to be frozen again
		}
		s, err := ptrace.Poll(tid)
		switch {
		case err != nil:
			t.minder.Forget(tid)
		case s.Ended():
			t.minder.Forget(tid)
			t.job.ended(tid, s)
		case s.Stopped() && t.minder.Handle(tid, s) != nil:
			t.lost(tid)
		}
	}
}

// lost waits for a tracee that left its stop before it could be let go.
func (t *tracer) lost(tid int) {
	t.minder.Forget(tid)
	s, err := proc.ReadStat(proc.Process(tid))
	if err != nil {
		return
	}
	p := t.processes[s.ID] // other threads of it may be held again
	if p == nil {
		p = &process{pid: s.ID, start: s.Start, leaving: true}
	}
	t.add(p, tid)
}
