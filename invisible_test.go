package freezer_test

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// An epoll_wait of 600 ms, and how it ended: what python shows of EINTR it shows
// raw only through ctypes, so that its own retry is out of the way.
const epollProgram = `
import ctypes, select, time
libc = ctypes.CDLL(None, use_errno=True)
ep = select.epoll()
events = ctypes.create_string_buffer(64)
print("ready", flush=True)
begin = time.monotonic()
n = libc.epoll_wait(ep.fileno(), events, 4, 600)
print(n, ctypes.get_errno() if n < 0 else 0, round((time.monotonic() - begin) * 1000), flush=True)
`

// epollWaiter starts a program that waits; result is what it says afterwards.
func epollWaiter(t *testing.T) (pid int, result func() (text string, took time.Duration)) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to wait in epoll_wait")
	}
	cmd := exec.Command(python, "-c", epollProgram)
	out, err := cmd.StdoutPipe()
	must(t, err)
	freezertest.Run(t, cmd)
	lines := bufio.NewReader(out)
	_, err = lines.ReadString('\n')
	must(t, err)
	freezertest.Eventually(t, "it waits", func() bool {
		c, err := exec.Command("cat", "/proc/"+strconv.Itoa(cmd.Process.Pid)+"/wchan").Output()
		return err == nil && strings.Contains(string(c), "ep")
	})
	return cmd.Process.Pid, func() (string, time.Duration) {
		line, err := lines.ReadString('\n')
		must(t, err)
		f := strings.Fields(line)
		ms, err := time.ParseDuration(f[2] + "ms")
		must(t, err)
		return f[0] + " " + f[1], ms
	}
}

// ptraced calls test with a group that is frozen by ptrace, in a place of its own.
func ptraced(t *testing.T, test func(t *testing.T, g *freezer.Group)) {
	t.Run(freezer.Ptrace, func(t *testing.T) {
		t.Setenv("FREEZER_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
		g, err := freezertest.Tree(t, freezer.Ptrace).Create("g")
		must(t, err)
		test(t, g)
	})
}

func TestInvisibleThawHidesTheFreezeFromEpoll(t *testing.T) {
	test := func(t *testing.T, g *freezer.Group) {
		freezertest.InTime(t, func() error {
			pid, result := epollWaiter(t)
			must(t, g.Add(pid))
			err := g.Freeze(t.Context(), freezer.Invisible())
			if errors.Is(err, freezer.ErrUnsupported) {
				wantState(t, g, freezer.Thawed)
				if g.Backend() != freezer.Cgroup1 {
					t.Skip(err)
				}
				return nil // there that is as it should be
			}
			must(t, err)
			must(t, unix.Nanosleep(&unix.Timespec{Nsec: 200e6}, nil)) // for so long it is frozen
			must(t, g.Thaw())
			late := checkEpoll(t, result)
			must(t, g.Settled(t.Context()))
			if g.ThawsInvisibly() {
				t.Error("the calls are still remembered")
			}
			return late
		})
	}
	eachBackend(t, test)
	ptraced(t, test)
}

func TestTasksThatSomebodyElseTracesAreExposed(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		if g.Backend() == freezer.Cgroup1 {
			t.Skip("no invisible thaw on cgroup1")
		}
		pid, _ := epollWaiter(t)
		must(t, g.Add(pid))
		err := g.Freeze(t.Context(), freezer.Invisible())
		if errors.Is(err, freezer.ErrUnsupported) {
			t.Skip(err)
		}
		must(t, err)
		seized := make(chan error)
		over := make(chan struct{})
		t.Cleanup(func() { close(over) })
		go func() {
			runtime.LockOSThread() // and ends with the thread, which lets go
			seized <- unix.PtraceSeize(pid)
			<-over
		}()
		must(t, <-seized)
		must(t, g.Thaw())
		tasks := g.Exposed()
		if len(tasks) != 1 || tasks[0].TID != pid || !strings.HasPrefix(tasks[0].Command, "python") || !strings.Contains(tasks[0].Reason, "traced by") {
			t.Errorf("got %+v, want task %d", tasks, pid)
		}
	})
}

func TestACallThatIsMindedIsFrozenAgain(t *testing.T) {
	ptraced(t, func(t *testing.T, g *freezer.Group) {
		freezertest.InTime(t, func() error {
			pid, result := epollWaiter(t)
			must(t, g.Add(pid))
			for _, opts := range [][]freezer.FreezeOption{{freezer.Invisible()}, nil, {freezer.Invisible()}} {
				must(t, g.Freeze(t.Context(), opts...))
				wantState(t, g, freezer.Frozen)
				must(t, g.Thaw())
			}
			return checkEpoll(t, result)
		})
	})
}

func TestATaskThatIsKilledWhileItsCallIsMindedIsReaped(t *testing.T) {
	ptraced(t, func(t *testing.T, g *freezer.Group) {
		pid, _ := epollWaiter(t)
		must(t, g.Add(pid))
		must(t, g.Freeze(t.Context(), freezer.Invisible()))
		must(t, g.Thaw())
		must(t, unix.Kill(pid, unix.SIGKILL))
		freezertest.Eventually(t, "the group is empty", func() bool {
			pids, err := g.Processes()
			return err == nil && len(pids) == 0
		})
		freezertest.Eventually(t, "its parent sees its end", func() bool {
			s, err := proc.ReadStat(pid)
			return err != nil || s.State == 'Z' && proc.Status(pid, "TracerPid") == "0"
		})
	})
}

func checkEpoll(t *testing.T, result func() (string, time.Duration)) (late error) {
	t.Helper()
	text, took := result()
	if text != "0 0" || took < 595*time.Millisecond {
		t.Errorf("epoll_wait returned %s after %v, want 0 after 600ms", text, took)
	}
	if took > 700*time.Millisecond {
		late = fmt.Errorf("epoll_wait took %v, want 600ms", took)
	}
	return late
}

func TestOrdinaryThawShowsAsEINTR(t *testing.T) {
	// What the test above is about: should it fail, a newer kernel needs no help.
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, result := epollWaiter(t)
		must(t, g.Add(pid))
		must(t, g.Freeze(t.Context()))
		must(t, g.Thaw())
		if text, _ := result(); text != "-1 4" {
			t.Logf("epoll_wait returned %s: this kernel hides it", text)
		}
	})
}

func TestAnotherProcessThawsInvisibly(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup2)
	g, err := f.Create("g")
	must(t, err)
	freezertest.InTime(t, func() error {
		pid, result := epollWaiter(t)
		must(t, g.Add(pid))
		if err := g.Freeze(t.Context(), freezer.Invisible(), freezer.By("a")); errors.Is(err, freezer.ErrUnsupported) {
			t.Skip(err)
		} else {
			must(t, err)
		}
		other, err := freezerOf(t, g).Group("g")
		must(t, err)
		must(t, other.Thaw(freezer.HeldBy("a")))
		late := checkEpoll(t, result)
		must(t, other.Settled(t.Context()))
		return late
	})
}
