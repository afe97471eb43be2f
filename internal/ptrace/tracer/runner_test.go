package tracer

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

func TestARunnerTellsHowItsProgramEnded(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	for command, want := range map[string]string{"exit 7": "7 0", "kill -TERM $$": "0 15", "exit 0": "0 0", "sleep 0.01 & exit 3": "3 0"} {
		status, by, err := h.Run(g.dir.Path(), "/bin/sh", []string{"sh", "-c", command})
		if got := fmt.Sprintf("%d %d", status, by); err != nil || got != want {
			t.Errorf("%s: got %s, %v", command, got, err)
		}
	}
	if _, _, err := h.Run(g.dir.Path(), "/no/such", []string{"such"}); err != unix.ENOENT {
		t.Errorf("no program: got %v", err)
	}
	eventually(t, "the runners have ended", func() bool { return len(h.runners()) == 0 })
}

func TestAnInterruptFromBeforeTheJobIsNotLost(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGINT
	_, _ = fmt.Fprintf(theirs, "started %d", cmd.Process.Pid)
	go func() {
		defer theirs.Close()
		err := cmd.Wait().(*exec.ExitError)
		_, _ = fmt.Fprintf(theirs, "ended 0 %d", err.Sys().(syscall.WaitStatus).Signal())
	}()
	if _, by, err := await(ours, signals); by != unix.SIGINT || err != nil {
		t.Errorf("it ended by %v, %v", by, err)
	}
	close(signals)
}

// runJobOf runs a program by a runner until the test ends.
func runJobOf(t *testing.T, g *Group, program string, argv ...string) (runner int) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = g.h.Run(g.dir.Path(), program, append([]string{program}, argv...))
	}()
	t.Cleanup(func() {
		_ = g.h.Kill(g.dir.Path())
		<-done
		eventually(t, "the runners have ended", func() bool { return len(g.h.runners()) == 0 })
	})
	eventually(t, "the runner is there", func() bool { return len(g.h.runners()) > 0 })
	return g.h.runners()[0]
}

func TestARunnerHoldsItsJobAndTheTracerAllOthers(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	mine, others := newCounter(t), newCounter(t)
	program := compiled(t, "storm")
	other := start(t, program, "fork", others.path).Process.Pid
	add(t, g, other)
	runner := runJobOf(t, g, program, "hop", mine.path) // all orphans
	for range tries(10) {
		mine.runs(t)
		others.runs(t)
		freeze(t, g)
		if !mine.stands() || !others.stands() {
			t.Fatal("somebody runs")
		}
		pids, err := g.Processes()
		if err != nil || len(pids) < 2 {
			t.Fatal(pids, err)
		}
		for _, pid := range pids {
			by, _ := strconv.Atoi(proc.Status(pid, "TracerPid"))
			if ours := by == runner; ours != slices.Contains(proc.Ancestors(pid), runner) || pid == runner {
				t.Errorf("%d is held by %d, the runner is %d", pid, by, runner)
			}
		}
		thaw(t, g)
	}
}

func TestLosingARunnerThawsItsJob(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	c := newCounter(t)
	runner := runJobOf(t, g, compiled(t, "storm"), "busy", c.path, "3")
	c.runs(t)
	freeze(t, g)
	if !c.stands() {
		t.Error("it runs")
	}
	_ = unix.Kill(runner, unix.SIGKILL)
	eventually(t, "it runs, or the tracer has got it", func() bool {
		pids, err := g.Processes()
		return err == nil && len(pids) == 1 && alive(pids[0]) && proc.Status(pids[0], "TracerPid") != strconv.Itoa(runner)
	})
	thaw(t, g)
	c.runs(t)
}

func TestAProgramIsRunInAFrozenGroupWhenThatIsThawed(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	c := newCounter(t)
	freeze(t, g)
	runJobOf(t, g, compiled(t, "storm"), "busy", c.path, "3")
	if !c.stands() {
		t.Error("it runs")
	}
	thaw(t, g)
	c.runs(t)
}
