package tracer

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// A look finds the members of freezing groups that are not held yet.

// An acquaintance is what is remembered of a process. It is that process as long
// as the inode is the same.
type acquaintance struct {
	pid   int
	inode uint64
	is    int    // what the last look knew of it
	start uint64 // of one that was held
	alone uint64 // it had one thread when so many tasks had been born; 0 when it had more
	room  int    // a descriptor of its directory of threads; 0 when there never was one
}

// look goes through the processes and takes those that belong to a freezing
// group. It reads those only that are new since the last look.
func (t *tracer) look() {
	t.begun++
	t.born = t.births()
	if t.unborn(t.listed) && !t.doubt && len(t.refused) == 0 { // a look at all would find the same
		for _, p := range t.processes {
			t.seal(p)
		}
	} else {
		t.lookAtAll()
	}
	t.done, t.looked = t.begun, time.Now()
}

// meet lists the processes, the youngest first: they do not last. The list is the
// last one when nothing has been born since.
func (t *tracer) meet() []*acquaintance {
	if t.unborn(t.listed) {
		return t.known
	}
	old, kernel := t.known, map[int]bool(nil)
	if len(old) == 0 {
		kernel = kernelThreads()
	}
	entries := proc.Entries()
	t.known, t.listed = make([]*acquaintance, 0, len(entries)), t.born
	for _, e := range slices.Backward(entries) {
		for len(old) > 0 && old[0].pid > e.ID {
			old[0].end()
			old = old[1:]
		}
		k := &acquaintance{pid: e.ID, inode: e.Inode}
		switch {
		case len(old) > 0 && old[0].pid == e.ID && old[0].inode == e.Inode:
			k, old = old[0], old[1:]
		case kernel[e.ID]:
			k.is = stranger
		}
		t.known = append(t.known, k)
	}
	for _, k := range old {
		k.end()
	}
	return t.known
}

// enter opens the directory of the process's threads, for good: to look there is
// five times faster then. It is false when it must be done by name.
func (k *acquaintance) enter(pid int) bool {
	if k == nil || k.inode == 0 {
		return false
	}
	if k.room == 0 {
		k.room = -1
		fd, err := unix.Open(proc.Path(pid, "task"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		switch {
		case err != nil:
		case fd < mostRooms():
			k.room = fd
		default:
			unix.Close(fd)
		}
	}
	return k.room > 0
}

// mostRooms leaves enough descriptors for clients.
var mostRooms = sync.OnceValue(func() int {
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return int(min(limit.Cur/2, 10_000))
})

// end is for a process that is not listed any more.
func (k *acquaintance) end() {
	if k.room > 0 {
		unix.Close(k.room)
	}
	*k = acquaintance{}
}

// forget has the next look read a process anew.
func (t *tracer) forget(pid int) {
	for _, k := range t.known {
		if k.pid == pid {
			*k = acquaintance{pid: pid, inode: k.inode, room: k.room}
		}
	}
}

func (t *tracer) lookAtAll() {
	t.doubt = false
	t.young = lastPID()
	fresh, changed := t.hurried.After(t.looked) || time.Since(t.looked) > forgets, t.readRecords()
	c := t.h.census(t.records)
	c.held = t.processes
	if c.marked != t.marked {
		t.marked, changed = c.marked, true
	}
	t.refused = t.refused[:0]
	spoilt := false
	consider := func(k *acquaintance) {
		k.is = t.consider(c, k)
		spoilt = spoilt || k.is == unknown || k.is == corpse
	}
	for _, k := range t.meet() {
		switch {
		case k.is == stranger && !changed:
		case k.is != inside && k.is != unknown && !fresh:
		default:
			consider(k)
		}
	}
	if spoilt {
		t.doubt, t.listed = true, 0
	}
	young := func(pid int) { consider(&acquaintance{pid: pid}) }
	if c.marked != never && (!chase(t.young, young) || spoilt) && time.Since(t.hurried) < chaseTime {
		for path := range t.news {
			if !t.settled(path) {
				t.happened(path)
			}
		}
	}
	t.newest = lastPID()
}

// forgets is for how long it is remembered who belongs to no freezing group: less
// than it takes to give out all numbers of processes once.
const forgets = 200 * time.Millisecond

// chaseOnce is how long one look may chase.
const chaseOnce = 50 * time.Millisecond

// chaseTime is for how long looks that find nothing new do not count when a
// process ended before it could be seen where it belongs. It may have left a
// child that does the same; or, on a busy host, have been anybody's.
const chaseTime = time.Second

// What can be known of a process.
const (
	unknown  = iota // it is gone, or is becoming another program
	corpse          // whose belonging cannot be told any more
	outside         // of all groups, until somebody asks to freeze
	stranger        // outside, and cannot come to belong to a group unless a record says so
	inside          // of some group
)

// consider takes a process if it belongs to a freezing group. It need not be known.
func (t *tracer) consider(c *census, k *acquaintance) int {
	pid, p := k.pid, t.processes[k.pid]
	if p != nil && !p.leaving {
		p.known = k
		t.seal(p)
		return inside
	}
	if pid == t.self {
		return outside
	}
	if runner := c.runnerOf(pid); runner != 0 && t.job == nil || t.job != nil && runner != t.self {
		return outside // another's business
	}
	if k.alone != 0 && p == nil && t.takeAgain(c, k) {
		return inside
	}
	h := c.belongs(pid)
	s, ok := c.stat(pid)
	switch {
	case !ok || c.unsure[pid]:
		return unknown
	case h.path == "" && dead(s) && !h.known:
		return corpse
	case h.path == "" && t.isStranger(c, s, h):
		return stranger
	case h.path == "":
		return outside
	case dead(s):
		if t.tasks[pid] == nil {
			t.reap(pid) // see findLost
		}
	case t.holds(h.path):
		t.take(s, h.path, k)
	}
	return inside
}

// isStranger says of a process that belongs to no group whether it can come to
// belong to one without a new record. Its parents are older, and so cannot be
// marked either; should one end, one above that becomes its parent.
func (t *tracer) isStranger(c *census, s proc.Stat, h home) bool {
	return s.KernelThread() || !h.known && s.Start < c.marked && t.job == nil && len(c.runners) == 0
}

// kernelThreads lists the children of the kernel's kthreadd: often half of all
// there is in /proc. It is empty in a PID namespace, which has none.
func kernelThreads() map[int]bool {
	const kthreadd = 2
	threads := map[int]bool{}
	if s, err := proc.ReadStat(kthreadd); err == nil && s.KernelThread() {
		for _, pid := range children(kthreadd) {
			threads[pid] = true
		}
	}
	return threads
}

// chase considers the processes that were born after the one with PID last, and
// those that are meanwhile: a process that forks and ends, and whose child does
// the same, is always ahead of a look at all. It is false when it left some out,
// or had not done with them in time.
func chase(last int, consider func(pid int)) bool {
	const most = 100 // the youngest; older ones are dead, or are found by the next look
	all := true
	for start := time.Now(); time.Since(start) < chaseOnce; {
		now := lastPID()
		if now == last {
			return all
		}
		if now < last || now-last > most {
			last, all = max(now-most, 0), false
		}
		for pid := last + 1; pid <= now; pid++ {
			if p := proc.Process(pid); p == pid || p == 0 {
				consider(pid)
			}
		}
		last = now
	}
	return false
}

// readRecords reads the records if any has changed.
func (t *tracer) readRecords() (changed bool) {
	var st unix.Stat_t
	if unix.Stat(t.h.recordPath(""), &st) != nil || t.records != nil && st.Mtim == t.recorded {
		return false
	}
	t.records, t.recorded = t.h.records(), st.Mtim
	return true
}

// retry tries those again that were refused. To look at all for their sake would
// be dear; when one of them is refused no more that must be done.
func (t *tracer) retry() {
	before := t.refused
	t.refused = nil
	t.born = t.births()
	c := t.h.census(t.records)
	c.held = t.processes
	tried := map[int]bool{}
	for _, r := range before {
		if pid := proc.Process(r.tid); pid != 0 && !tried[pid] {
			tried[pid] = true
			t.consider(c, &acquaintance{pid: pid})
		}
	}
	t.newest = lastPID()
	still := map[int]bool{}
	for _, r := range t.refused {
		still[r.tid] = true
	}
	for _, r := range before {
		if !still[r.tid] {
			t.happened(r.path)
		}
	}
}
