//go:build amd64

package invisible_test

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// freeze freezes the group for a while, and thaws it invisibly.
func freeze(tb testing.TB, g *freezer.Group, length time.Duration, during func()) *invisible.Session {
	tb.Helper()
	tids, err := g.Tasks()
	if err != nil {
		tb.Fatal(err)
	}
	s := invisible.Prepare(tids)
	if err := g.Freeze(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	if during != nil {
		during()
	}
	time.Sleep(length)
	thaw(tb, g, s)
	return s
}

func thaw(tb testing.TB, g *freezer.Group, s *invisible.Session) {
	tb.Helper()
	tids, err := g.Tasks()
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Thaw(tb.Context(), tids, func() error { return g.Thaw() }); err != nil {
		tb.Fatal(err)
	}
}

// Timeouts are generous here, because a machine can be busy: docs/transparency.md
// has what was measured. A call that was late by the length of a freeze, or
// started its timeout anew, is still told from one that was not.
const (
	timeout   = 1000 * time.Millisecond
	frozenFor = 500 * time.Millisecond
	tolerance = 300 * time.Millisecond
)

func checkTimedOut(t *testing.T, s *subject, name string, least, most time.Duration) (late error) {
	t.Helper()
	result, took := s.result(t)
	if result != calls[name].timedOut {
		t.Errorf("%s returned %d, want %d", name, result, calls[name].timedOut)
	}
	if took < least {
		t.Errorf("%s took %v, want %v at least", name, took, least)
	}
	if took > most+tolerance {
		late = fmt.Errorf("%s took %v, want %v at most", name, took, most)
	}
	return late
}

// eachCall runs a test for each call that has a timeout, all of them at once.
func eachCall(t *testing.T, test func(t *testing.T, g *freezer.Group, name string)) {
	for name, c := range calls {
		if c.timedOut == 1 || name == "loop" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, group(t), name)
		})
	}
}

func TestACallEndsWhenItWouldHaveEndedWithoutTheFreeze(t *testing.T) {
	eachCall(t, func(t *testing.T, g *freezer.Group, name string) {
		freezertest.InTime(t, func() error {
			s := start(t, g, name, timeout, 1)
			session := freeze(t, g, frozenFor, nil)
			late := checkTimedOut(t, s, name, timeout, timeout)
			if err := session.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			if skipped := session.Skipped(); len(skipped) > 0 {
				t.Error("skipped:", skipped)
			}
			return late
		})
	})
}

func TestACallInAThreadEndsInTimeToo(t *testing.T) {
	g := group(t)
	freezertest.InTime(t, func() error {
		s := start(t, g, "epoll_wait", timeout, 5)
		freeze(t, g, frozenFor, nil)
		return checkTimedOut(t, s, "epoll_wait", timeout, timeout)
	})
}

func TestACallWhoseTimeIsUpWhileItIsFrozenEndsAtTheThaw(t *testing.T) {
	eachCall(t, func(t *testing.T, g *freezer.Group, name string) {
		freezertest.InTime(t, func() error {
			begin := time.Now()
			s := start(t, g, name, timeout, 1)
			freeze(t, g, timeout+frozenFor, nil)
			return checkTimedOut(t, s, name, timeout+frozenFor, time.Since(begin))
		})
	})
}

func TestASignalWithAHandlerThatCameDuringTheFreezeInterruptsTheCall(t *testing.T) {
	eachCall(t, func(t *testing.T, g *freezer.Group, name string) {
		s := start(t, g, name, 5*time.Second, 1)
		// The Go runtime handles SIGURG with SA_RESTART, and then does nothing.
		freeze(t, g, 0, func() { _ = unix.Tgkill(s.cmd.Process.Pid, s.tid, unix.SIGURG) })
		if result, took := s.result(t); result != -int(unix.EINTR) || took > 2*time.Second {
			t.Errorf("%s returned %d after %v, want EINTR", name, result, took)
		}
	})
}

func TestASignalWithAHandlerAfterTheThawInterruptsTheCall(t *testing.T) {
	g := group(t)
	s := start(t, g, "epoll_wait", 5*time.Second, 1)
	session := freeze(t, g, 0, nil)
	_ = unix.Tgkill(s.cmd.Process.Pid, s.tid, unix.SIGURG)
	if result, took := s.result(t); result != -int(unix.EINTR) {
		t.Errorf("returned %d after %v, want EINTR", result, took)
	}
	if err := session.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFurtherFreezesAreHiddenWhoeverMakesThem(t *testing.T) {
	g := group(t)
	freezertest.InTime(t, func() error {
		s := start(t, g, "semtimedop", timeout, 1)
		first := freeze(t, g, 0, nil)
		second := freeze(t, g, 0, nil)
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(frozenFor)
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
		late := checkTimedOut(t, s, "semtimedop", timeout, timeout)
		if err := first.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if skipped := second.Skipped(); len(skipped) > 0 {
			t.Error("skipped:", skipped)
		}
		return late
	})
}

func TestWithRestartTheTimeoutStartsAnew(t *testing.T) {
	g := group(t)
	s := start(t, g, "epoll_wait", timeout, 1)
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(frozenFor)
	session := invisible.New()
	thaw(t, g, session)
	if err := session.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if by := proc.Status(s.tid, "TracerPid"); by != "0" {
		t.Error("still traced by", by)
	}
	result, took := s.result(t)
	if result != 0 || took < frozenFor+timeout {
		t.Errorf("returned %d after %v", result, took)
	}
}

func TestClosingASessionLetsGoOfItsTasks(t *testing.T) {
	g := group(t)
	s := start(t, g, "epoll_wait", timeout, 1)
	session := freeze(t, g, 0, nil)
	session.Close()
	if err := session.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if by := proc.Status(s.tid, "TracerPid"); by != "0" {
		t.Error("still traced by", by)
	}
	if result, took := s.result(t); result != 0 || took < timeout {
		t.Errorf("returned %d after %v", result, took)
	}
}

func TestAnotherProcessCanThawWithASessionThatWasStored(t *testing.T) {
	g := group(t)
	freezertest.InTime(t, func() error {
		s := start(t, g, "epoll_wait", timeout, 1)
		tids, _ := g.Tasks()
		stored, err := invisible.Prepare(tids).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(frozenFor)
		var session invisible.Session
		if err := session.UnmarshalBinary(stored); err != nil {
			t.Fatal(err)
		}
		thaw(t, g, &session)
		return checkTimedOut(t, s, "epoll_wait", timeout, timeout)
	})
}

func TestATaskThatSomebodyTracesIsSkippedAndReported(t *testing.T) {
	g := group(t)
	s := start(t, g, "epoll_wait", 5*time.Second, 1)
	done := make(chan bool)
	defer close(done)
	seized := make(chan error)
	go func() {
		runtime.LockOSThread()
		seized <- ptrace.Seize(s.tid, 0)
		<-done
	}()
	if err := <-seized; err != nil {
		t.Fatal(err)
	}
	checkSkipped(t, freeze(t, g, 0, nil), s.tid)
}

func TestATaskUnderGdbIsSkippedAndReported(t *testing.T) {
	if _, err := exec.LookPath("gdb"); err != nil {
		t.Skip("no gdb")
	}
	g := group(t)
	s := start(t, g, "read", 0, 1) // a call that outlives gdb's coming
	gdb := exec.Command("gdb", "-q", "-nx", "-p", fmt.Sprint(s.cmd.Process.Pid), "-ex", "continue")
	in, _ := gdb.StdinPipe() // stays open, or gdb ends
	defer in.Close()
	freezertest.Run(t, gdb)
	freezertest.Eventually(t, "gdb continues the program", func() bool {
		stat, _ := proc.ReadStat(s.tid)
		return proc.Status(s.tid, "TracerPid") != "0" && stat.State == 'S' && s.sleeps()
	})
	checkSkipped(t, freeze(t, g, 0, nil), s.tid)
}

func checkSkipped(t *testing.T, session *invisible.Session, tid int) {
	t.Helper()
	for _, skip := range session.Skipped() {
		if skip.TID == tid && strings.Contains(skip.Why, "traced by") {
			return
		}
	}
	t.Errorf("skipped: %v, want task %d", session.Skipped(), tid)
}
