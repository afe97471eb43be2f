package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// emptyProgram builds a program that does nothing, as the real one is built.
func emptyProgram(tb testing.TB) string {
	tb.Helper()
	built(tb)
	dir := tb.TempDir()
	source := filepath.Join(dir, "empty.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "empty"), source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "empty")
}

// process runs a program to its end, with as little around it as there can be.
func process(argv, env []string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: env, Files: []uintptr{null.Fd(), null.Fd(), 2}})
	if err != nil {
		return err
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: %s", argv[0], describe(status))
	}
	return err
}

// BenchmarkFreezeCommand compares a whole freezer freeze with the start of an
// empty Go program.
func BenchmarkFreezeCommand(b *testing.B) {
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		b.Run(backend, func(b *testing.B) {
			f := freezertest.Tree(b, backend)
			if _, err := f.AddAll("g", []int{freezertest.Sleeper(b)}, false); err != nil {
				b.Fatal(err)
			}
			g, err := f.Group("g")
			if err != nil {
				b.Fatal(err)
			}
			empty, env := emptyProgram(b), environ(f)
			run := func(argv ...string) func() error {
				return func() error { return process(argv, env) }
			}
			thaw := func() error { return g.Thaw() }
			took := freezertest.Interleave(b, max(b.N, 300), []freezertest.Way{
				{Name: "freezer freeze", Do: run(built(b), "freeze", "g"), After: thaw},
				{Name: "an empty program", Do: run(empty), After: thaw},
			})
			freezertest.ReportFloor(b, took[0], took[1:])
		})
	}
}

// A process's peak is seen best while it waits: what wait4 tells of a finished
// one includes that of its parent.
func TestFreezingTakesLittleMemory(t *testing.T) {
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		pid, release := freezertest.Blocker(t)
		g := group(t, f, "g", pid)
		cmd := start(t, f, "freeze", "g")
		freezertest.Eventually(t, "it is FREEZING", func() bool { return state(t, g) == freezer.Freezing })
		text := proc.Status(cmd.Process.Pid, "VmHWM")
		release()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		var kiB int
		if _, err := fmt.Sscan(text, &kiB); err != nil || kiB >= 16<<10 {
			t.Errorf("it took %s (%v)", text, err)
		}
		t.Logf("it took %s", text)
	})
}
