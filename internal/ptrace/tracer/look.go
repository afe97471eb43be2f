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

// look goes through the processes and takes those that belong to a freezing
// group. It reads those only that are new since the last look.
func (t *tracer) look() {
	t.begun++
	t.readRecords()
	c := t.h.census(t.records)
	c.held = t.processes
	t.refused = t.refused[:0]
	last := lastPID()
	t.young = last
	t.wrapped = last < t.last
	known, kernel := t.outsiders, map[int]bool(nil)
	if t.wrapped || len(known) == 0 || time.Since(t.looked) > forgets {
		known, kernel = nil, kernelThreads()
	}
	t.outsiders = make(map[int]bool, len(known))
	spoilt := false
	consider := func(pid int) {
		switch t.consider(c, pid) {
		case outside:
			t.outsiders[pid] = true
		case corpse:
			t.outsiders[pid], spoilt = true, true // but once
		case unknown:
			spoilt = true
		}
	}
	for _, pid := range slices.Backward(proc.All()) { // the youngest do not last
		if kernel[pid] || known[pid] && (pid <= t.last || pid > last) { // nobody else can have got the number
			t.outsiders[pid] = true
			continue
		}
		consider(pid)
	}
	if c.marked != never && (!chase(last, consider) || spoilt) && time.Since(t.hurried) < chaseTime {
		for path := range t.news {
			if !t.settled(path) {
				t.happened(path)
			}
		}
	}
	t.done, t.last, t.looked = t.begun, last, time.Now()
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
	inside // of some group
)

// consider takes a process if it belongs to a freezing group.
func (t *tracer) consider(c *census, pid int) int {
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
	h := c.belongs(pid)
	s, ok := c.stat(pid)
	switch {
	case !ok || c.unsure[pid]:
		return unknown
	case h.path == "" && dead(s) && !h.known:
		return corpse
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
func (t *tracer) readRecords() {
	var st unix.Stat_t
	if unix.Stat(t.h.recordPath(""), &st) != nil || t.records != nil && st.Mtim == t.recorded {
		return
	}
	t.records, t.recorded = t.h.records(), st.Mtim
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
			t.consider(c, pid)
		}
	}
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
