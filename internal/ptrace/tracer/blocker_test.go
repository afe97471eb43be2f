package tracer

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/ptrace"
)

// blocked makes sure that a group stays FREEZING because of one task, and
// returns why.
func blocked(t testing.TB, g *Group, tid int) string {
	t.Helper()
	if err := g.SetFreezing(true); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); frozen || err != nil {
		t.Fatalf("frozen: %v, %v", frozen, err)
	}
	var reason string
	eventually(t, "there is a reason", func() bool {
		reason, _ = g.h.WhyLate(tid)
		return reason != ""
	})
	if frozen, _ := g.Frozen(); frozen {
		t.Fatal("it became frozen")
	}
	return reason
}

func TestATaskThatIsTracedAlreadyIsABlocker(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	add(t, g, pid)
	other := start(t, "sleep", "1000").Process.Pid
	add(t, g, other)
	attached, leave := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		attached <- ptrace.Seize(pid, 0)
		<-leave
		_ = ptrace.Interrupt(pid)
		_, _ = ptrace.Wait(pid)
		_ = ptrace.Detach(pid, 0)
	}()
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	if reason := blocked(t, g, pid); !strings.HasPrefix(reason, "is traced by ") || !strings.Contains(reason, fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Errorf("it says: %s", reason)
	}
	eventually(t, "the other task is held", func() bool { return taskStates(other) == "t" })
	close(leave)
	eventually(t, "the group is frozen", func() bool { ok, _ := g.Frozen(); return ok })
}

func TestADebuggerIsFrozenWithWhatItHasStopped(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	cmd := exec.Command(compiled(t, "debugger"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, cmd)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, _ := strconv.Atoi(strings.TrimSpace(line))
	add(t, g, cmd.Process.Pid)
	add(t, g, child)
	freeze(t, g)
	if a, b := taskStates(cmd.Process.Pid), taskStates(child); a != "t" || b != "t" {
		t.Errorf("states %q and %q", a, b)
	}
	thaw(t, g)
	eventually(t, "the debugger runs", func() bool { return taskStates(cmd.Process.Pid) == "S" })
	if got := taskStates(child); got != "t" {
		t.Errorf("its child is in state %q", got)
	}
}

func TestTasksThatDieWhileFreezingAreNoBlockers(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	c := newCounter(t)
	program := compiled(t, "storm")
	for range tries(10) {
		var pids []int
		for _, mode := range []string{"busy", "fork", "thread", "threads"} {
			pid := start(t, program, mode, c.path, "8").Process.Pid
			add(t, g, pid)
			pids = append(pids, pid)
		}
		go func() {
			for i, pid := range pids {
				time.Sleep(time.Duration(i*200) * time.Microsecond)
				_ = unix.Kill(-pid, unix.SIGKILL)
			}
		}()
		freeze(t, g)
		thaw(t, g)
		for _, pid := range pids {
			eventually(t, "it is dead", func() bool { return !alive(pid) })
		}
	}
}
