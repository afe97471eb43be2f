package tracer

import (
	"fmt"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	late    time.Time     // when it had not stopped for the first time
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
func (t *tracer) take(s proc.Stat, path string) {
	p := t.processes[s.ID]
	if p == nil || p.start != s.Start {
		p = &process{pid: s.ID, start: s.Start, young: t.young}
	}
	p.path, p.leaving, p.sealed, p.session = path, false, false, nil
	for _, k := range p.tasks {
		k.leaving = false
	}
	if s.Threads == 1 {
		t.seize(p, s.ID)
	} else {
		t.seizeThreads(p)
	}
}

// takeAgain takes a process that was held before, and had one thread then, without
// reading anything about it. It is false when that cannot be done.
func (t *tracer) takeAgain(c *census, pid int, start uint64) bool {
	r := t.records[pid]
	if r.start != start || r.path == "" || t.processes[pid] != nil || !c.exists(r.path, r.id) {
		return false
	}
	return !t.holds(r.path) || t.trySeize(&process{pid: pid, start: start, path: r.path, young: t.young}, pid) == nil
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

// reaped drops the tasks that have ended while others of their process were
// seized: the process was about to start another program.
func (t *tracer) reaped() {
	for tid, s := range t.reaper.take() {
		if k := t.tasks[tid]; k != nil {
			t.happened(k.of.path)
			t.ended(k, s)
		}
	}
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
	k := &task{tid: tid, of: p, leaving: p.leaving}
	k.index = len(p.tasks)
	p.tasks = append(p.tasks, k)
	p.running++
	t.processes[p.pid] = p
	t.tasks[tid] = k
	t.reaper.goesOn()
	t.pending = append(t.pending, k)
	t.happened(p.path)
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
	first := t.tasks[p.pid]
	held := []*task{first}
	if first == nil || threads(p.pid) != len(p.tasks) {
		held = slices.Clone(p.tasks)
		t.seizeThreads(p)
		if len(p.tasks) != len(held) || t.refuses(p) {
			return
		}
	}
	for _, k := range held {
		if k.stop.Stopped() && !t.check(k) { // a thread that was not held yet has started another program
			t.happened(p.path)
			return
		}
	}
	p.sealed = true
	t.remember(p)
}

// given says whether a number was given to a process while the number given last
// went from one to another. They begin anew when they end.
func given(from, pid, to int) bool {
	if from <= to {
		return from < pid && pid <= to
	}
	return from < pid || pid <= to
}

// threads counts the threads of a process, as proc(5) has it by the links of
// their directory; 0 when it is gone.
func threads(pid int) int {
	var st unix.Stat_t
	if unix.Stat(proc.Path(pid, "task"), &st) != nil {
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

// parkTime is how long a task takes to stop before it is worth to find out why.
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
			if k.late.IsZero() {
				k.late = time.Now()
			} else if time.Since(k.late) > parkTime {
				k.parked = parked(k.tid)
				if k == k.of.tasks[0] { // once for each process
					t.findLost(k.of)
				}
			}
		}
	}
	t.pending = append(still, t.pending...)
	return len(still) < len(waiting)
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
	t.happened(k.of.path)
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
	} else if k.of.running == 0 {
		t.seal(k.of)
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

// again has a task that had stopped waited for once more.
func (t *tracer) again(k *task) {
	k.stop, k.late = ptrace.Status{}, time.Time{}
	k.of.running++
	t.pending = append(t.pending, k)
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

// A reaper waits for ends of tracees while the tracer's thread waits for an exec
// that cannot go on before: see ptrace.Seize.
type reaper struct {
	mu    sync.Mutex
	on    bool
	timer *time.Timer
	pid   int                   // of the process that is being seized
	count int                   // of what has been seized, ever
	seen  int                   // the same at the last beat
	ended map[int]ptrace.Status // by TID
}

// reaperBeat is how often it looks. No thread's seizing takes so long unless it
// waits.
const reaperBeat = 2 * time.Millisecond

// guard has the reaper watch over a process until done.
func (r *reaper) guard(p *process) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on, r.pid = true, p.pid
	if r.timer == nil {
		r.timer = time.AfterFunc(reaperBeat, r.reap)
	} else {
		r.timer.Reset(reaperBeat)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.on = false
		r.timer.Stop()
	}
}

func (r *reaper) goesOn() {
	r.mu.Lock()
	r.count++
	r.mu.Unlock()
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.on {
		return
	}
	r.timer.Reset(reaperBeat)
	if r.count != r.seen { // the seizing goes on
		r.seen = r.count
		return
	}
	for _, tid := range proc.Threads(r.pid) { // also those that nobody told of
		if s, ended := ptrace.Reap(tid); ended {
			if r.ended == nil {
				r.ended = map[int]ptrace.Status{}
			}
			r.ended[tid] = s
		}
	}
}

func (r *reaper) take() map[int]ptrace.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended := r.ended
	r.ended = nil
	return ended
}
