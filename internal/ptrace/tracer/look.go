package tracer

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A look finds the members of freezing groups that are not held yet.

// An acquaintance is what is remembered of a process. It is that process as long
// as the inode is the same.
type acquaintance struct {
	inode   uint64
	start   uint64 // of one that was held, and had one thread
	outside bool   // of all groups: until somebody asks to freeze …
	lasting bool   // … or even until a record changes
}

// look goes through the processes and takes those that belong to a freezing
// group. It reads those only that are new since the last look.
func (t *tracer) look() {
	last := lastPID()
	same := t.undisturbed(last)
	t.begun++
	if same {
		for _, p := range t.processes {
			t.seal(p)
		}
	} else {
		t.lookAtAll(last)
	}
	t.done, t.last, t.looked = t.begun, last, time.Now()
}

// undisturbed says whether the last look began after the last news, and no
// process has been born since it began: then another one finds the same.
func (t *tracer) undisturbed(last int) bool {
	if last != t.last || len(t.refused) > 0 || time.Since(t.looked) > forgets {
		return false
	}
	for path, look := range t.news {
		if look >= t.done && t.holds(path) {
			return false
		}
	}
	return true
}

func (t *tracer) lookAtAll(last int) {
	fresh, changed := t.hurried.After(t.looked) || time.Since(t.looked) > forgets, t.readRecords()
	c := t.h.census(t.records)
	c.held = t.processes
	if c.marked != t.marked {
		t.marked, changed = c.marked, true
	}
	t.refused = t.refused[:0]
	t.young = last
	known, kernel := t.known, map[int]bool(nil)
	if len(known) == 0 {
		kernel = kernelThreads()
	}
	t.known = make(map[int]acquaintance, len(known))
	spoilt := false
	consider := func(pid int, k acquaintance) {
		switch t.consider(c, pid, k.start) {
		case outside:
			t.known[pid] = acquaintance{inode: k.inode, outside: true}
		case stranger:
			t.known[pid] = acquaintance{inode: k.inode, outside: true, lasting: true}
		case corpse:
			t.known[pid] = acquaintance{inode: k.inode, outside: true}
			spoilt = true // but once
		case unknown:
			spoilt = true
		default:
			switch p := t.processes[pid]; {
			case p != nil && p.sealed && len(p.tasks) == 1:
				t.known[pid] = acquaintance{inode: k.inode, start: p.start}
			case p == nil && k.start != 0:
				t.known[pid] = k
			}
		}
	}
	for _, e := range slices.Backward(proc.Entries()) { // the youngest do not last
		k := known[e.ID]
		switch {
		case kernel[e.ID]:
			t.known[e.ID] = acquaintance{inode: e.Inode, outside: true, lasting: true}
		case k.inode != e.Inode:
			consider(e.ID, acquaintance{inode: e.Inode})
		case k.outside && (!fresh || k.lasting && !changed):
			t.known[e.ID] = k
		default:
			consider(e.ID, k)
		}
	}
	young := func(pid int) { consider(pid, acquaintance{}) }
	if c.marked != never && (!chase(last, young) || spoilt) && time.Since(t.hurried) < chaseTime {
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
	unknown = iota // it is gone, or is becoming another program
	corpse         // whose belonging cannot be told any more
	outside
	stranger // outside, and cannot come to belong to a group unless a record says so
	inside   // of some group
)

// consider takes a process if it belongs to a freezing group. Its start time need
// not be known.
func (t *tracer) consider(c *census, pid int, start uint64) int {
	if p := t.processes[pid]; p != nil && !p.leaving {
		t.seal(p)
		return inside
	}
	if pid == t.self {
		return outside
	}
	if runner := c.runnerOf(pid); runner != 0 && t.job == nil || t.job != nil && runner != t.self {
		return outside // another's business
	}
	if start != 0 && t.takeAgain(c, pid, start) {
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
		t.take(s, h.path)
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

// lastPID is the PID that was given last.
func lastPID() int {
	text, _ := kernfs.ReadFile("/proc/loadavg")
	f := strings.Fields(string(text))
	if len(f) != 5 {
		return 0
	}
	pid, _ := strconv.Atoi(f[4])
	return pid
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
	c := t.h.census(t.records)
	c.held = t.processes
	tried := map[int]bool{}
	for _, r := range before {
		if pid := proc.Process(r.tid); pid != 0 && !tried[pid] {
			tried[pid] = true
			t.consider(c, pid, 0)
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
