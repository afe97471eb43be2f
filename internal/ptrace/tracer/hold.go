package tracer

import (
	"fmt"
	"iter"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A task is a thread that is traced by us.
type task struct {
	tid     int
	of      *process
	index   int           // in its process's tasks
	stop    ptrace.Status // zero until it has stopped
	late    time.Time     // when it had not stopped for the first time …
	excused time.Duration // … and for how long thereafter nobody asks why
	parked  bool          // has not stopped, and cannot run: a parent in vfork
	leaving bool
}

// A refusal is a task that should be held and cannot be, or not yet.
type refusal struct {
	tid    int
	path   string // of its group
	reason string // empty for one that is about to stop
}

// take seizes and interrupts the threads of a process. It waits for none.
func (t *tracer) take(s proc.Stat, path string, k *acquaintance) {
	p := t.processes[s.ID]
	if p == nil || p.start != s.Start {
		p = &process{pid: s.ID, start: s.Start, young: t.young}
	}
	p.path, p.leaving, p.sealed, p.alone, p.session, p.known = path, false, false, 0, nil, k
	for _, k := range p.tasks {
		k.leaving = false
	}
	if s.Threads == 1 {
		p.alone = t.born
		t.seize(p, s.ID)
	} else {
		t.seizeThreads(p)
	}
}

// takeAgain takes a process that was held before, and had one thread then, without
// reading anything about it. It is false when that cannot be done.
func (t *tracer) takeAgain(c *census, k *acquaintance) bool {
	r := t.records[k.pid]
	if r.start != k.start || r.path == "" || !c.exists(r.path, r.id) {
		return false
	}
	p := &process{pid: k.pid, start: k.start, path: r.path, young: t.young, alone: k.alone, known: k}
	return !t.holds(r.path) || t.trySeize(p, p.pid) == nil
}

func (t *tracer) seizeThreads(p *process) {
	done := t.reaper.guard(p)
	for _, tid := range proc.Threads(p.pid) {
		t.seize(p, tid)
	}
	done()
	t.reaped()
	t.newest = lastPID()
}

func (t *tracer) seize(p *process, tid int) {
	if k := t.tasks[tid]; k != nil && k.of == p {
		return
	}
	switch err := t.trySeize(p, tid); err {
	case nil:
	case unix.ESRCH: // it ended, and may have left a child
		t.happened(p.path)
	default:
		t.explain(p, tid, err)
	}
}

func (t *tracer) trySeize(p *process, tid int) error {
	err := ptrace.Seize(tid, ptrace.Follow)
	if err == nil {
		t.add(p, tid)
		_ = ptrace.Interrupt(tid)
	}
	return err
}

func (t *tracer) add(p *process, tid int) {
	if old := t.tasks[tid]; old != nil { // the number was another's until just now
		t.drop(old)
	}
	k := &p.first
	if k.of != nil {
		k = new(task)
	}
	*k = task{tid: tid, of: p, leaving: p.leaving, index: len(p.tasks)}
	if k.index == 0 {
		p.tasks = p.room[:0]
	}
	p.tasks = append(p.tasks, k)
	p.running++
	t.processes[p.pid] = p
	t.tasks[tid] = k
	t.reaper.goesOn()
	t.pending = append(t.pending, k)
	t.came(p.path)
}

// explain finds out why a task cannot be seized.
func (t *tracer) explain(p *process, tid int, err error) {
	s, gone := proc.ReadStat(tid)
	if gone != nil || s.State == 'Z' || s.State == 'X' {
		if s.Threads <= 1 { // the process is dead, and may have left children
			t.happened(p.path)
		}
		return
	}
	other, _ := strconv.Atoi(proc.Status(tid, "TracerPid")) // a thread of it
	other = proc.Process(other)
	switch {
	case other == t.self: // the child of a tracee that died before it could tell
		if t.tasks[tid] == nil {
			t.add(p, tid)
			_ = ptrace.Interrupt(tid)
		}
		return
	case other != 0 && s.State == 't' && t.atRest(other):
		return // its debugger is frozen, so nobody can let it go on
	}
	t.refused = append(t.refused, refusal{tid, p.path, whyRefused(other, err)})
	t.remember(p) // it would be lost with its parent: its environment cannot be read, perhaps
}

// whyRefused is the reason and, after a semicolon, what would help.
func whyRefused(tracer int, err error) string {
	if tracer != 0 {
		s, _ := proc.ReadStat(tracer)
		return fmt.Sprintf("is traced by %s (process %d), and a task can have only one tracer; quit that, or freeze it in the same group", s.Command, tracer)
	}
	if text, _ := kernfs.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); len(text) > 0 && text[0] != '0' && os.Geteuid() != 0 {
		return "may not be traced, for kernel.yama.ptrace_scope is " + string(text[:1]) + "; start it with freezer run, or set that to 0"
	}
	if err == unix.EPERM {
		return "may not be traced, for it belongs to another user or runs a program with privileges; freeze as root"
	}
	return "cannot be traced (" + err.Error() + "); it is tried again"
}

// atRest says whether a process is held and none of its threads runs.
func (t *tracer) atRest(pid int) bool {
	p := t.processes[pid]
	return p != nil && p.sealed
}

// parked says whether those of its tasks that have not stopped cannot run.
func (p *process) parked() bool {
	return !slices.ContainsFunc(p.tasks, func(k *task) bool { return !k.stop.Stopped() && !k.parked })
}

// seal looks, when all tasks of a process have stopped, whether there are
// others: none can come any more after that.
func (t *tracer) seal(p *process) {
	if p.sealed || p.leaving || p.running > 0 && !p.parked() {
		return
	}
	if given(p.young, p.pid, t.newest) { // it may have become another's between the look and the seizing
		if s, err := proc.ReadStat(p.pid); err == nil && s.Start != p.start {
			t.release(p, nil)
			return
		}
	}
	if !t.unborn(p.alone) && !t.complete(p) {
		return
	}
	p.sealed, p.alone = true, 0
	if len(p.tasks) == 1 {
		p.alone = t.born
	}
	if p.known != nil {
		p.known.start, p.known.alone = p.start, p.alone
	}
	t.remember(p)
}

// complete says whether all of a process's threads are held. It seizes those that
// are not.
func (t *tracer) complete(p *process) bool {
	first := t.tasks[p.pid]
	held := []*task{first}
	if first == nil || threads(p) != len(p.tasks) {
		held = slices.Clone(p.tasks)
		t.seizeThreads(p)
		if len(p.tasks) != len(held) || t.refuses(p) {
			return false
		}
	}
	for _, k := range held {
		if k.stop.Stopped() && !t.check(k) { // a thread that was not held yet has started another program
			t.happened(p.path)
			return false
		}
	}
	return true
}

// threads counts the threads of a process, as proc(5) has it by the links of
// their directory; 0 when it is gone.
func threads(p *process) int {
	var st unix.Stat_t
	if p.known.enter(p.pid) {
		if unix.Fstat(p.known.room, &st) != nil {
			return 0
		}
	} else if unix.Stat(proc.Path(p.pid, "task"), &st) != nil {
		return 0
	}
	return int(st.Nlink) - 2
}

func (t *tracer) refuses(p *process) bool {
	return slices.ContainsFunc(t.refused, func(r refusal) bool { return proc.Process(r.tid) == p.pid })
}

// remember has a member's record made.
func (t *tracer) remember(p *process) {
	if r, ok := t.records[p.pid]; !ok || r.start != p.start {
		t.unwritten = append(t.unwritten, p)
	}
}

// drop forgets a task that is gone or let go.
func (t *tracer) drop(k *task) {
	delete(t.tasks, k.tid)
	p := k.of
	last := p.tasks[len(p.tasks)-1]
	p.tasks[k.index], last.index = last, k.index
	p.tasks = p.tasks[:len(p.tasks)-1]
	if !k.stop.Stopped() {
		p.running--
		t.happened(p.path) // it may have left children
	}
	if len(p.tasks) == 0 && t.processes[p.pid] == p {
		delete(t.processes, p.pid)
	}
}

// release lets a process go, by way of a session if there is one.
func (t *tracer) release(p *process, s *invisible.Session) {
	p.leaving, p.sealed, p.session = true, false, s
	for _, k := range slices.Clone(p.tasks) {
		t.leave(k)
	}
}

func (t *tracer) leave(k *task) {
	k.leaving = true
	if k.stop.Stopped() {
		t.detach(k)
	}
}

// detach lets a stopped task go on, with the signal that it was about to take.
func (t *tracer) detach(k *task) {
	if t.letRun(k.tid, k.stop, k.of.session) == nil {
		t.drop(k)
		return
	}
	t.again(k) // it was killed, or another thread's exec has put that into its place
}

// late lists the tasks that keep a group from being frozen.
func (t *tracer) late(path string) iter.Seq[refusal] {
	return func(yield func(refusal) bool) {
		for _, r := range t.refused {
			if under(path, r.path) && !yield(r) {
				return
			}
		}
		for _, k := range t.pending {
			if t.tasks[k.tid] == k && !k.parked && under(path, k.of.path) && !yield(refusal{k.tid, k.of.path, ""}) {
				return
			}
		}
	}
}
