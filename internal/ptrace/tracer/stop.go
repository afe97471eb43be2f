package tracer

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// How tasks come to a stop, and what else may become of them before.

// parkTime is how long a task takes to stop before it is worth to find out why not;
// when it is still busy then, twice as long.
const parkTime = 500 * time.Microsecond

// collect finds out which of the pending tasks have stopped, and which have ended.
// It is false when none has.
func (t *tracer) collect() (some bool) {
	waiting := t.pending
	t.pending = nil
	var still []*task
	for _, k := range waiting {
		if t.tasks[k.tid] != k || k.stop.Stopped() {
			continue
		}
		s, err := ptrace.Poll(k.tid)
		switch {
		case err != nil:
			t.vanished(k)
		case s.Ended():
			t.ended(k, s)
		case s.Stopped():
			t.stopped(k, s)
		default:
			still = append(still, k)
		}
	}
	some = len(still) < len(waiting)
	if !some { // else they may only wait for their turn, on a busy machine
		t.askWhy(still)
	}
	t.pending = append(still, t.pending...)
	return some
}

// askWhy finds out why tasks have not stopped for long.
func (t *tracer) askWhy(tasks []*task) {
	now := time.Now()
	for _, k := range tasks {
		if k.late.IsZero() {
			k.late, k.excused = now, parkTime
		} else if k.parked || now.Sub(k.late) > k.excused {
			k.parked = parked(k.tid)
			k.excused *= 2
			if t.tasks[k.tid] == k && k == k.of.tasks[0] { // once for each process
				t.findLost(k.of)
			}
		}
	}
}

// findLost finds tracees among a process's threads of which nothing was told,
// because the thread that made them was killed. The kernel ends no process, and
// lets no exec go on, before their ends are reaped.
func (t *tracer) findLost(p *process) {
	for _, tid := range proc.Threads(p.pid) {
		if t.tasks[tid] != nil || t.reap(tid) {
			continue
		}
		if proc.Status(tid, "TracerPid") == strconv.Itoa(t.self) {
			t.add(p, tid)
			_ = ptrace.Interrupt(tid)
		}
	}
}

// reap ends a dead tracee that is not known, and is false when it is none.
func (t *tracer) reap(tid int) bool {
	s, ended := ptrace.Reap(tid)
	if ended {
		t.job.ended(tid, s)
	}
	return ended
}

// bury drops the tasks that were killed while they were held.
func (t *tracer) bury() {
	for _, k := range t.tasks {
		if k.stop.Stopped() {
			t.check(k)
		}
	}
}

// check makes sure that a task is still in the stop that it was seen in, and is
// false when it is not.
func (t *tracer) check(k *task) bool {
	switch s, err := ptrace.Poll(k.tid); {
	case err != nil:
		t.vanished(k)
	case s.Ended():
		t.ended(k, s)
	case s.Event() == unix.PTRACE_EVENT_EXEC: // another thread's, which took its place
		t.again(k)
		t.stopped(k, s)
	case s.Stopped(), k.stop.Event() == unix.PTRACE_EVENT_EXEC: // which is seen once
		return true
	case !k.of.sealed: // it was killed, and is not dead yet
		t.again(k)
	}
	return false
}

func (t *tracer) ended(k *task, s ptrace.Status) {
	t.drop(k)
	t.job.ended(k.tid, s)
}

// parked says whether a task waits in vfork for its child. It cannot run before
// that has gone on, and stops then. The kernel's freezers count it as frozen, too.
func parked(tid int) bool {
	text, _ := kernfs.ReadFile(proc.Path(tid, "wchan"))
	return strings.HasPrefix(string(text), "kernel_clone") || strings.HasPrefix(string(text), "wait_for_vfork_done")
}

func (t *tracer) stopped(k *task, s ptrace.Status) {
	k.stop, k.parked = s, false
	k.of.running--
	t.came(k.of.path)
	if s.Event() != 0 && s.Event() != unix.PTRACE_EVENT_STOP {
		k.of.alone = 0
		t.happened(k.of.path)
	}
	switch s.Event() {
	case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK, unix.PTRACE_EVENT_CLONE:
		if child, err := ptrace.Message(k.tid); err == nil {
			t.adopt(child, k)
		}
	case unix.PTRACE_EVENT_EXEC: // the other threads are gone
		restartExec(k.tid)
		for _, other := range slices.Clone(k.of.tasks) {
			if other != k {
				t.drop(other)
			}
		}
	}
	if k.tid != k.of.pid && given(k.of.young, k.tid, t.newest) && unix.Tgkill(k.of.pid, k.tid, 0) != nil {
		k.leaving = true // its number was another's already when it was seized
	}
	if k.leaving {
		t.detach(k)
	}
}

// adopt enters the child of a tracee, which is a tracee by birth.
func (t *tracer) adopt(child int, parent *task) {
	pid := proc.Process(child)
	if pid == 0 || t.tasks[child] != nil {
		return
	}
	p := t.processes[pid]
	if p == nil {
		s, err := proc.ReadStat(pid)
		if err != nil {
			return
		}
		p = &process{pid: pid, start: s.Start, young: t.newest, path: parent.of.path, leaving: parent.leaving}
	}
	t.add(p, child)
	t.tasks[child].leaving = p.leaving || parent.leaving
}

// vanished is for a task that is no tracee any more: it has been reaped, or it
// was a thread that called exec, and has now the number of the process.
func (t *tracer) vanished(k *task) {
	p, leaving := k.of, k.leaving
	t.drop(k)
	t.happened(p.path) // a thread that was not held may have taken its place
	if k.tid == p.pid || t.processes[p.pid] != p && proc.Process(p.pid) == 0 {
		return
	}
	first := t.tasks[p.pid]
	if first == nil {
		if proc.Status(p.pid, "TracerPid") != strconv.Itoa(t.self) {
			return
		}
		t.add(p, p.pid)
		t.tasks[p.pid].leaving = leaving
		return
	}
	if first.stop.Stopped() {
		t.again(first)
	}
}

// again has a task that had stopped waited for once more.
func (t *tracer) again(k *task) {
	k.stop, k.late = ptrace.Status{}, time.Time{}
	k.of.running++
	t.pending = append(t.pending, k)
}
