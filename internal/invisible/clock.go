package invisible

import (
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// now reads CLOCK_MONOTONIC, which timeouts are measured by.
func now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}

// A nap is what the scheduler tells of a sleeping task.
type nap struct {
	since    time.Duration // by the clock of the processor that it ran on last
	switches int           // how often it went to sleep in its life
}

// napOf reads /proc/TID/sched, which changes only when the task runs.
func napOf(tid string) (n nap, ok bool) {
	text, err := kernfs.ReadFile("/proc/" + tid + "/sched")
	if err != nil {
		return n, false
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "se.exec_start": // milliseconds with six decimals
			whole, part, _ := strings.Cut(strings.TrimSpace(value), ".")
			digits, err := strconv.ParseInt(whole+part, 10, 64)
			if err != nil || len(part) != 6 {
				return n, false
			}
			n.since = time.Duration(digits)
		case "nr_voluntary_switches":
			n.switches, err = strconv.Atoi(strings.TrimSpace(value))
			return n, err == nil && n.since != 0
		}
	}
	return n, false
}

// Clocks tell how far each processor's scheduler clock is behind CLOCK_MONOTONIC.
// Such a clock stands still while a hypervisor has taken the processor away: by a
// fraction of a millisecond each second on a busy host. A call that began a minute
// ago is taken to have begun later by as much.
type clocks struct {
	mu     sync.Mutex
	behind map[int]time.Duration
}

// time is when a task's nap began, by CLOCK_MONOTONIC.
func (c *clocks) time(tid int, n nap) (time.Duration, bool) {
	cpu, ok := processor(tid)
	if !ok {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	behind, ok := c.behind[cpu]
	if !ok {
		if behind, ok = measure(cpu); !ok {
			return 0, false
		}
		c.behind[cpu] = behind
	}
	return n.since + behind, true
}

// measure compares the clocks in a thread that naps on the processor and sees
// when it was woken. Of several tries the shortest is the one that was disturbed
// least. Its error makes calls begin later, not earlier, than they did: a timeout
// may be late, but not early.
func measure(cpu int) (behind time.Duration, ok bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var was, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		return 0, false
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return 0, false
	}
	defer func() { _ = unix.SchedSetaffinity(0, &was) }()
	self := strconv.Itoa(unix.Gettid())
	const tries, short = 10, 200 * time.Microsecond
	shortest := time.Hour
	for range tries {
		start := now()
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1}, nil)
		nap, read := napOf(self)
		end := now()
		if took := end - start; read && took < shortest {
			behind, ok, shortest = end-nap.since, true, took
		}
		if shortest < short {
			break
		}
	}
	return behind, ok
}

// processor returns the number of the processor that a task ran on last.
func processor(tid int) (int, bool) {
	text, err := kernfs.ReadFile(proc.Path(tid, "stat"))
	if err != nil {
		return 0, false
	}
	_, rest, ok := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), " ")
	f := strings.Fields(rest) // f[0] is field 3 of proc(5)
	if !ok || len(f) < 37 {
		return 0, false
	}
	n, err := strconv.Atoi(f[36])
	return n, err == nil
}
