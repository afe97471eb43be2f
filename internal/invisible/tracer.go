package invisible

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// ThreadName is the name (/proc/TID/comm) of the thread that watches calls, so
// that others can tell it from a debugger.
const ThreadName = "freezer-minder"

// options of all tracees. With TRACESYSGOOD, a tracer that dies at a stop of a
// system call leaves nothing behind; without it the kernel would send SIGTRAP.
const options = unix.PTRACE_O_TRACESYSGOOD

// stopTime bounds the wait for tasks to stop. Frozen ones do within 1 ms, or as
// soon as a busy machine lets them; those that still sleep uninterruptibly after
// patience are not waited for.
const (
	stopTime = 2 * time.Second
	patience = 20 * time.Millisecond
)

// A tracer is the thread that stops and watches the tasks of one Session.
type tracer struct {
	session *Session
	minder  *Minder
	pending map[int]bool // seized, but not yet seen in the stop
	stopped []stop
	changed chan os.Signal
	ended   func(tid int, s ptrace.Status) // may be nil
}

// A stop is one that a task is held in, on its way to a signal perhaps.
type stop struct {
	tid    int
	signal unix.Signal
}

func newTracer(s *Session) *tracer {
	m := NewMinder()
	m.naps = napsFrozen
	return &tracer{session: s, minder: m, pending: map[int]bool{}, changed: make(chan os.Signal, 1)}
}

// run is clean when it has let go of all tasks.
func (t *tracer) run(ctx context.Context, tids []int, r *relay) (clean bool) {
	defer rename()()
	for _, tid := range tids {
		t.seize(tid)
	}
	t.gather(ctx)
	r.ready.Done()
	<-r.thawed
	t.release()
	r.released.Done()
	t.watch(func() bool { return t.minder.Len() > 0 }, t.session.quit)
	t.abandon()
	r.minded.Done()
	t.watch(func() bool { return len(t.pending) > 0 }, t.session.quit)
	signal.Stop(t.changed)
	return t.minder.Len() == 0 && len(t.pending) == 0
}

func (t *tracer) seize(tid int) {
	if err := ptrace.Seize(tid, options); err != nil {
		t.refused(tid, err)
		return
	}
	t.pending[tid] = true
	_ = ptrace.Interrupt(tid)
}

// Mind attends to the Minder's tasks, on the thread that traces them, until it
// minds none, or until quit is closed: then they are still minded. ended, if not
// nil, is told how those of them ended that did: they are reaped.
//
// Whoever else has to trace a task can have it let go: see LetGo.
func (m *Minder) Mind(quit <-chan struct{}, ended func(tid int, s ptrace.Status)) {
	if m.Len() == 0 {
		return
	}
	defer rename()()
	asked := askedToLetGo()
	both, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(both)
		select {
		case <-quit:
		case <-asked:
		case <-over:
		}
	}()
	t := &tracer{minder: m, pending: map[int]bool{}, changed: make(chan os.Signal, 1), ended: ended}
	t.watch(func() bool { return m.Len() > 0 }, both)
	close(over)
	<-both
	select {
	case <-asked:
		t.abandon()
	default:
	}
	signal.Stop(t.changed)
}

// rename gives this thread its name, and back the one that it had.
func rename() (back func()) {
	var was [16]byte
	_ = unix.Prctl(unix.PR_GET_NAME, uintptr(unsafe.Pointer(&was)), 0, 0, 0)
	set := func(name *[16]byte) { _ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0) }
	ours := [16]byte{}
	copy(ours[:], ThreadName)
	set(&ours)
	return func() { set(&was) }
}

// refused notes a task that could not be seized. One that another session
// watches already is in good hands, and one that is gone needs nothing.
func (t *tracer) refused(tid int, err error) {
	if err == unix.ESRCH {
		return
	}
	if by := proc.Status(tid, "TracerPid"); by != "" && by != "0" {
		comm, _ := kernfs.ReadFile("/proc/" + by + "/comm")
		name := strings.TrimSpace(string(comm))
		if name != ThreadName {
			t.session.skip(tid, fmt.Sprintf("it is traced by %s (%s)", by, name))
		}
		return
	}
	t.session.skip(tid, err.Error())
}

// gather waits until the tasks have stopped, and amends their calls.
func (t *tracer) gather(ctx context.Context) {
	for range manyLooks {
		if t.collectAll(); len(t.pending) == 0 {
			return
		}
		runtime.Gosched()
	}
	signal.Notify(t.changed, unix.SIGCHLD)
	start, tick := time.Now(), time.NewTicker(patience)
	defer tick.Stop()
	for {
		if t.collectAll(); len(t.pending) == 0 {
			return
		}
		select {
		case <-t.changed:
		case <-ctx.Done():
			return
		case <-tick.C:
			if time.Since(start) > stopTime || t.allStuck() {
				return
			}
		}
	}
}

func (t *tracer) collectAll() {
	for tid := range t.pending {
		t.collect(tid)
	}
}

func (t *tracer) allStuck() bool {
	for tid := range t.pending {
		if stat, err := proc.ReadStat(tid); err == nil && stat.State != 'D' {
			return false
		}
	}
	return true
}

// manyLooks is how often it is worth to look at once: tasks stop within 10 µs.
const manyLooks = 20

// collect amends the call of a task if it has stopped.
func (t *tracer) collect(tid int) {
	status, err := ptrace.Poll(tid)
	switch {
	case err != nil || status.Ended():
		delete(t.pending, tid)
	case status.Stopped():
		delete(t.pending, tid)
		t.stopped = append(t.stopped, stop{tid, status.Signal()})
		if err := t.minder.Amend(tid, status, t.session); err != nil {
			t.session.skip(tid, err.Error())
		}
	}
}

func (t *tracer) release() {
	for _, s := range t.stopped {
		_ = t.minder.Release(s.tid, s.signal)
	}
	t.stopped = nil
}

// lookAgain is how long watch relies on being told. Once, in a test that killed its
// job, it was not told of a death: nothing else was then done for that task, and its
// process could not be waited for.
const lookAgain = time.Second

// watch attends to the tasks for as long as it is needed, or until quit.
func (t *tracer) watch(needed func() bool, quit <-chan struct{}) {
	if needed() {
		signal.Notify(t.changed, unix.SIGCHLD)
	}
	for needed() {
		if t.drain(); !needed() {
			return
		}
		timer := time.NewTimer(min(t.minder.Expire(), lookAgain))
		select {
		case <-t.changed:
		case <-timer.C:
		case <-quit:
			return
		}
		timer.Stop()
	}
}

func (t *tracer) attend(tid int) {
	status, err := ptrace.Poll(tid)
	switch {
	case err != nil || status.Ended():
		t.minder.Forget(tid)
		delete(t.pending, tid)
		if err == nil && t.ended != nil {
			t.ended(tid, status)
		}
	case !status.Stopped():
	case t.pending[tid]: // at last
		t.collect(tid)
		t.release()
	default:
		_ = t.minder.Handle(tid, status)
	}
}

// drain attends to all tasks that have stopped or ended.
func (t *tracer) drain() {
	for attended := 0; ; attended++ {
		tid, ok := changed()
		if ok && (t.minder.Minds(tid) || t.pending[tid]) {
			t.attend(tid)
			continue
		}
		if ok || attended == 0 {
			t.sweep()
		}
		return
	}
}

// sweep looks at each task. The kernel does not name those that somebody else in
// this process has waited for, because it is their parent, and it may name only
// a child of this thread's that another thread traces.
func (t *tracer) sweep() {
	for tid := range t.minder.calls {
		t.attend(tid)
	}
	for tid := range t.pending {
		t.attend(tid)
	}
}

// abandon lets go of the calls that are still watched, if there are any.
func (t *tracer) abandon() {
	timeUp := make(chan struct{})
	defer time.AfterFunc(stopTime, func() { close(timeUp) }).Stop()
	t.minder.Abandon()
	t.watch(func() bool { return t.minder.Len() > 0 }, timeUp)
}
