package tracer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// place makes a place for groups, with a tracer of its own, that ends with the
// test.
func place(t testing.TB) *Hierarchy {
	t.Helper()
	t.Setenv("FREEZER_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	h, err := Find("")
	if err != nil {
		t.Skip(err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	endWithUs(t, h)
	t.Cleanup(func() {
		if pid := tracerOf(h); pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL) // thaws all
			eventually(t, "the tracer has ended", func() bool { return !alive(pid) })
		}
	})
	return h
}

// endWithUs has the place's tracer killed should this test binary be, and so leave
// it behind with a group to hold.
func endWithUs(t testing.TB, h *Hierarchy) {
	cmd := exec.Command("sh", "-c", `read x; exec pkill -KILL -f "^freezer-tracer $1"`, "sh", h.Mount())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // with 1 when the tracer has ended by itself
	})
}

// tries is how often something is tried that goes wrong rarely: $FREEZER_TRIES
// times, or usually that many times.
func tries(usually int) int {
	if n, err := strconv.Atoi(os.Getenv("FREEZER_TRIES")); err == nil {
		return n
	}
	return usually
}

// tracerOf is the PID of the place's tracer, 0 when there is none.
func tracerOf(h *Hierarchy) int {
	answer, err := h.ask(false, "hello", 0, "")
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(answer)
	return pid
}

func alive(pid int) bool {
	s, err := proc.ReadStat(pid)
	return err == nil && s.State != 'Z' && s.State != 'X'
}

// group makes a group.
func group(t testing.TB, h *Hierarchy, name string) *Group {
	t.Helper()
	dir := h.dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return h.Open(kernfs.NewDir(dir))
}

func freeze(t testing.TB, g *Group) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Log(describe(g))
		}
	}()
	if err := g.SetFreezing(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the group is frozen", func() bool {
		frozen, err := g.Frozen()
		if err != nil {
			t.Fatal(err)
		}
		return frozen
	})
}

func thaw(t testing.TB, g *Group) {
	t.Helper()
	if err := g.SetFreezing(false); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, g *Group, pid int) {
	t.Helper()
	if err := g.h.MoveProcess(g.dir.Path(), pid); err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start, nap := time.Now(), 100*time.Microsecond; !ok(); nap = min(2*nap, 20*time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(nap)
	}
}

// start starts a program in a process group of its own, all of which is killed
// when the test ends.
func start(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	run(t, cmd)
	return cmd
}

func run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	t.Cleanup(func() {
		_ = unix.Kill(-pid, unix.SIGKILL)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// compiled compiles a C program of testdata.
func compiled(t testing.TB, name string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no C compiler")
	}
	out := filepath.Join(t.TempDir(), name)
	text, err := exec.Command(gcc, "-O2", "-pthread", "-o", out, filepath.Join("testdata", name+".c")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

// taskStates are the states of all threads of a process.
func taskStates(pid int) string {
	var b strings.Builder
	for _, tid := range proc.Threads(pid) {
		if s, err := proc.ReadStat(tid); err == nil {
			b.WriteByte(s.State)
		}
	}
	return b.String()
}

// describe says all about a group's tasks.
func describe(g *Group) string {
	var b strings.Builder
	states, err := g.ask(false, "state")
	fmt.Fprintf(&b, "self, parent, frozen: %s, %v\n", states, err)
	tids, err := g.h.Threads(g.dir.Path())
	fmt.Fprintf(&b, "%d tasks, %v\n", len(tids), err)
	for _, tid := range tids {
		s, _ := proc.ReadStat(tid)
		wchan, _ := os.ReadFile(proc.Path(tid, "wchan"))
		held, _ := g.h.ask(false, "task", uint64(tid), "")
		fmt.Fprintf(&b, "task %d of %s: %c in %s, traced by %s: %s\n", tid, proc.Status(tid, "Tgid"), s.State, wchan, proc.Status(tid, "TracerPid"), held)
	}
	return b.String()
}
