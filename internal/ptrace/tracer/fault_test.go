package tracer

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// deathVariable makes a tracer kill itself before, or after, its Nth ptrace call.
const deathVariable = "TRACER_TEST_DEATH"

// This is done before any init function runs, among them the one that does not
// return in a tracer.
var _ = func() bool {
	when, number, _ := strings.Cut(os.Getenv(deathVariable), " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return false
	}
	calls := 0
	ptrace.OnCall = func(before bool) {
		if before {
			calls++
		}
		if calls == n && before == (when == "before") {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	return true
}()

// A household is processes of several kinds in a group.
type household struct {
	g        *Group
	listener *listener
	pids     []int
	stopped  int
	count    *counter
}

func newHousehold(t testing.TB, h *Hierarchy) *household {
	t.Helper()
	g := group(t, h, "t/a")
	hh := &household{g: g, listener: newListener(t, g), count: newCounter(t)}
	program := compiled(t, "storm")
	forker := start(t, program, "fork", hh.count.path).Process.Pid
	sleeper := start(t, "sleep", "1000").Process.Pid
	hh.stopped = start(t, "sleep", "1000").Process.Pid
	_ = unix.Kill(hh.stopped, unix.SIGSTOP)
	hh.pids = []int{hh.listener.Process.Pid, forker, sleeper, hh.stopped}
	for _, pid := range hh.pids[1:] {
		add(t, g, pid)
	}
	return hh
}

// unharmed makes sure that all live, and run as before.
func (hh *household) unharmed(t testing.TB) {
	t.Helper()
	for _, pid := range hh.pids {
		if !alive(pid) {
			t.Fatalf("process %d was killed", pid)
		}
		eventually(t, "nobody is held", func() bool {
			for _, tid := range proc.Threads(pid) {
				if s, err := proc.ReadStat(tid); err == nil && (s.State == 't' || s.State == 'T' != (pid == hh.stopped)) {
					return false
				}
			}
			return true
		})
	}
	hh.count.runs(t)
	beats := hh.listener.log.beats.Load()
	eventually(t, "each thread runs", func() bool { return hh.listener.log.beats.Load() > beats })
	hh.listener.check(t)
}

func TestATracerThatDiesAtAnyCallHarmsNothing(t *testing.T) {
	h := place(t)
	hh := newHousehold(t, h)
	t.Cleanup(func() { startEnvironment = nil })
	for _, when := range []string{"before", "after"} {
		for n := 1; ; n++ {
			startEnvironment = []string{fmt.Sprintf("%s=%s %d", deathVariable, when, n)}
			if err := hh.g.SetFreezing(true); err != nil {
				t.Fatal(err)
			}
			pid := tracerOf(h)
			hh.listener.send(t)
			eventually(t, "the group is frozen, or its tracer dead", func() bool {
				frozen, err := hh.g.Frozen()
				freezing, _ := hh.g.Freezing()
				return err != nil || frozen || !freezing
			})
			thaw(t, hh.g)
			hh.unharmed(t)
			if pid != 0 && tracerOf(h) == pid {
				t.Logf("%s: it makes %d calls", when, n-1)
				_ = unix.Kill(pid, unix.SIGKILL)
				eventually(t, "the tracer has ended", func() bool { return !alive(pid) })
				break
			}
		}
	}
}

func TestATracerKilledAtAnyMomentHarmsNothing(t *testing.T) {
	h := place(t)
	hh := newHousehold(t, h)
	for range tries(50) {
		if err := hh.g.Prepare(); err != nil {
			t.Fatal(err)
		}
		pid := tracerOf(h)
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(rand.N(4 * time.Millisecond))
			_ = unix.Kill(pid, unix.SIGKILL)
		}()
		for range 2 {
			hh.listener.send(t)
			if err := hh.g.SetFreezing(true); err != nil {
				t.Fatal(err)
			}
			_, _ = hh.g.Frozen()
			thaw(t, hh.g)
		}
		<-killed
		eventually(t, "the tracer has ended", func() bool { return !alive(pid) })
		thaw(t, hh.g)
		hh.unharmed(t)
	}
}
