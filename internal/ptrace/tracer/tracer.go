package tracer

import (
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A tracer holds the tasks of all groups that are freezing. It works on one
// thread, which the kernel knows as the tracer.
type tracer struct {
	h        *Hierarchy
	self     int // our PID
	listener int
	ends     int           // readable when a tracee has ended
	sources  []unix.PollFd // both, and the connections
	woken    bool          // a tracee has ended or, when it listens, stopped
	listens  bool
	message  [maxMessage]byte
	text     [64 << 10]byte // of a file of the kernel
	reaper   reaper
	job      *job // what this one runs; nil for the tracer of all

	minder *invisible.Minder

	freezing map[string]uint64 // the groups whose self state is freezing, and their identities
	killing  map[string]bool   // the groups that are held to be killed
	records  map[int]record    // as they were at that time
	recorded unix.Timespec

	processes map[int]*process // held, at least in part
	tasks     map[int]*task    // held
	pending   []*task          // those that have not stopped yet
	refused   []refusal        // found by the last look
	unwritten []*process       // members whose records are to be made

	// Looks are numbered. A group is settled when two looks in a row, begun
	// after the last news of it, have found none.
	begun, done int
	news        map[string]int  // by group: the look during or before which something happened
	known       []*acquaintance // the processes that there were, the youngest first …
	listed      uint64          // … when so many tasks had been born
	marked      uint64          // since when processes can be marked, see census
	doubt       bool            // a look at all may find more than the last one
	born        uint64          // births when the present look began
	young       int             // the PID that had been given last when the present look began: whoever has a higher one is younger
	newest      int             // the same after the last task was seized
	looked      time.Time       // when that look was done
	hurried     time.Time       // when it was last asked to freeze

	told     map[string]bool // what was last published of the freezing groups: whether they are frozen
	waiters  []*request
	kills    []*request
	beat     time.Duration // between looks for the sake of those that resist
	lastBeat time.Time
	active   time.Time // when a request last came
}

// A process is held when its tasks are.
type process struct {
	pid     int
	start   uint64
	path    string // of its group
	young   int    // the PID that had been given last when the look began that found it
	alone   uint64 // it had one thread when so many tasks had been born; 0 when that is not known
	known   *acquaintance
	tasks   []*task
	first   task               // that it ever had, and
	room    [1]*task           // for it: most have no other
	running int                // how many of them have not stopped
	sealed  bool               // all its tasks have stopped, and a look thereafter found no other
	leaving bool               // is let go, as soon as its tasks have stopped …
	session *invisible.Session // … by way of this
}

// lingers is how long a tracer without work waits for some.
const lingers = time.Second

func newTracer(h *Hierarchy, listener, ends int) *tracer {
	t := &tracer{
		h: h, self: os.Getpid(), listener: listener, ends: ends, minder: invisible.NewMinder(),
		freezing: map[string]uint64{}, killing: map[string]bool{},
		processes: map[int]*process{}, tasks: map[int]*task{}, news: map[string]int{},
		told: map[string]bool{}, active: time.Now(),
	}
	for _, fd := range []int{listener, ends, startSocket} {
		t.sources = append(t.sources, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return t
}

// run works until nothing is held and nobody asks. It must be called on a locked
// thread.
func (t *tracer) run() {
	for !t.finished() {
		t.serve(0)
		t.mind()
		if some := t.collect(); t.woken && !(some && t.stopping()) {
			t.woken = false
			t.buryAll()
		}
		if t.unsettled() {
			t.awaitStops()
			t.look()
		}
		t.tell()
		if !t.unsettled() {
			t.rest()
		}
	}
}

func (t *tracer) finished() bool {
	if t.job != nil {
		return t.job.over && len(children(t.self)) == 0
	}
	return len(t.freezing) == 0 && len(t.tasks) == 0 && t.minder.Len() == 0 && len(t.unwritten) == 0 &&
		len(t.waiters) == 0 && len(t.kills) == 0 && time.Since(t.active) > lingers
}

// holds says whether a group, or one above it, is freezing.
func (t *tracer) holds(path string) (yes bool) {
	above(path, func(path string) bool {
		_, yes = t.freezing[path]
		yes = yes || t.killing[path]
		return yes
	})
	return yes
}

// settled says whether nothing new has been found in the group and below.
func (t *tracer) settled(path string) bool {
	for group, look := range t.news {
		if t.done < look+2 && under(path, group) {
			return false
		}
	}
	return true
}

func (t *tracer) unsettled() bool {
	for group, look := range t.news {
		if t.done < look+2 && t.holds(group) {
			return true
		}
	}
	return false
}

// frozen says whether each task of the group and below has stopped. A group
// without tasks is frozen at once.
func (t *tracer) frozen(path string) bool {
	if !t.holds(path) || !t.settled(path) {
		return false
	}
	return t.firstLate(path) == nil
}

// firstLate is a task of the group or below that keeps it from being frozen.
func (t *tracer) firstLate(path string) *refusal {
	for r := range t.late(path) {
		return &r
	}
	return nil
}

// came notes that a group is not settled any more, because of a task that was
// found in it or has stopped.
func (t *tracer) came(path string) { t.news[path], t.beat = t.begun, 0 }

// happened is came for what may have added others, or hidden some from the look.
func (t *tracer) happened(path string) {
	t.came(path)
	t.doubt = true
}

// freeze begins to freeze a group. One that is frozen stays so: who asks again
// must not see it FREEZING.
func (t *tracer) freeze(path string, id uint64) {
	if t.freezing[path] == id {
		return
	}
	t.freezing[path] = id
	t.hurry(path)
}

// hurry has a group looked at for the first time.
func (t *tracer) hurry(path string) {
	t.hurried = time.Now()
	t.happened(path)
}

// thaw ends it, and lets go of the tasks that no other group above holds, by way
// of a session if there is one.
func (t *tracer) thaw(path string, s *invisible.Session) {
	delete(t.freezing, path)
	t.letGo(s)
}

func (t *tracer) letGo(s *invisible.Session) {
	for _, p := range t.processes {
		if !t.holds(p.path) && !p.leaving {
			t.release(p, s)
		}
	}
	maps.DeleteFunc(t.news, func(path string, _ int) bool { return !t.holds(path) })
}

// moved puts a process, if it is held, where its record is now, and has the
// group looked at that it was put into.
func (t *tracer) moved(pid int, path string) {
	t.forget(pid)
	if r, ok := t.h.recordOf(pid); ok {
		if t.records != nil {
			t.records[pid] = r // the rest is read by the next look
		}
		if p := t.processes[pid]; p != nil && r.start == p.start {
			p.path = r.path
		}
	}
	if t.holds(path) {
		t.happened(path)
	}
	t.letGo(nil)
}

// awaitStops gives the tasks that were interrupted a moment. It sleeps meanwhile:
// they need a processor to stop. As long as they do, it need not be woken.
func (t *tracer) awaitStops() {
	const patience, shortNap = 4 * time.Millisecond, 50 * time.Microsecond
	nap := shortNap
	for until := time.Now().Add(patience); t.stopping() && time.Now().Before(until); {
		if nap < parkTime || !t.listen() {
			t.serve(nap)
		}
		switch {
		case t.collect():
			nap = shortNap
		case t.woken:
			return
		default:
			nap = min(2*nap, parkTime)
		}
	}
}

// stopping says whether a task is about to stop.
func (t *tracer) stopping() bool {
	return slices.ContainsFunc(t.pending, func(k *task) bool { return !k.parked })
}

// listen has stops wake the tracer while it waits for some, and no longer: it is
// dear. It is true when they did not before, and some may have come unheard.
func (t *tracer) listen() (begun bool) {
	yes := len(t.pending) > 0 || t.minder.Len() > 0
	if yes == t.listens {
		return false
	}
	t.listens = yes
	tellStops(yes)
	return yes
}

// How often those who refuse to stop are tried again, and what is frozen is
// looked after.
const (
	shortBeat = time.Millisecond
	longBeat  = 50 * time.Millisecond
	idleBeat  = time.Second
)

// rest sleeps until there is something to do.
func (t *tracer) rest() {
	t.publish()
	if t.write() {
		return
	}
	beat := idleBeat
	if t.resisted() {
		beat = max(t.beat, shortBeat)
	}
	next := t.lastBeat.Add(beat)
	wait := min(max(time.Until(next), 0), t.minder.Expire())
	for _, r := range slices.Concat(t.waiters, t.kills) {
		wait = min(wait, max(time.Until(r.deadline), 0))
	}
	if t.woken || t.listen() {
		return
	}
	t.serve(wait)
	if time.Now().Before(next) {
		return
	}
	t.lastBeat = time.Now()
	t.checkGroups()
	switch {
	case !t.resisted():
	case time.Since(t.looked) > idleBeat: // they may have children
		t.look()
	default:
		t.retry()
	}
	const share = 20 // of a processor, at most, goes into this
	t.beat = max(min(2*beat, longBeat), share*time.Since(t.lastBeat))
}

// resisted says whether some tasks are not held yet that should be.
func (t *tracer) resisted() bool { return len(t.refused) > 0 || len(t.pending) > 0 }

// publish has inotify tell of the groups whose states have changed.
func (t *tracer) publish() {
	for path := range t.told {
		if _, ok := t.freezing[path]; !ok {
			delete(t.told, path)
			t.h.touchAll(path)
		}
	}
	for path := range t.freezing {
		frozen := t.frozen(path)
		if was, ok := t.told[path]; !ok || was != frozen {
			t.told[path] = frozen
			t.h.touchAll(path)
		}
	}
}

// checkGroups thaws groups whose directories somebody has removed.
func (t *tracer) checkGroups() {
	for path, id := range t.freezing {
		if is, _ := t.h.identity(path); is != id {
			t.thaw(path, nil)
		}
	}
}

// write makes the records of some members that have none, so that they stay
// members when their parents end. It is false when there is nothing to do.
func (t *tracer) write() bool {
	if len(t.unwritten) == 0 {
		return false
	}
	n := min(len(t.unwritten), 50)
	for _, p := range t.unwritten[:n] {
		id, ok := t.h.identity(p.path)
		if !ok {
			continue
		}
		now, ok := t.h.recordOf(p.pid)
		if ok && now.start == p.start {
			continue
		}
		r := record{p.start, id, p.path}
		if t.h.setRecord(p.pid, r) == nil && t.records != nil {
			t.records[p.pid] = r
		}
	}
	t.unwritten = t.unwritten[n:]
	return true
}

// forgetDead removes the records of processes that have ended.
func (t *tracer) forgetDead() {
	for pid, r := range t.h.records() {
		if s, err := proc.ReadStat(pid); err == unix.ESRCH || err == nil && s.Start != r.start {
			t.h.forget(pid, r)
		}
	}
}
