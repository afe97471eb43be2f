package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// rootEnv makes the test binary play the demonstration in the tree with this
// root, as the program does.
const rootEnv = "DEMO_TEST_ROOT"

func TestMain(m *testing.M) {
	root := os.Getenv(rootEnv)
	if root == "" {
		// What a demonstration leaves behind becomes our child.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		freezertest.Main(m)
		return
	}
	_ = os.Unsetenv(rootEnv)
	r, err := Run(context.Background(), Options{Root: root, Out: os.Stdout})
	var ended Interrupted
	switch {
	case errors.As(err, &ended):
		os.Exit(128 + int(ended.Signal))
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case !r.Good():
		os.Exit(1)
	}
}

// onEach runs a test on each backend, in a tree of its own, and then looks for
// what was left of it.
func onEach(t *testing.T, test func(*testing.T, *freezer.Freezer)) {
	t.Run("on", func(t *testing.T) {
		for _, backend := range freezertest.Backends {
			t.Run(backend, func(t *testing.T) {
				t.Parallel()
				f := freezertest.Tree(t, backend)
				test(t, f)
				groups, err := f.Groups()
				if err != nil || len(groups) > 0 {
					t.Errorf("groups are left: %v %v", groups, err)
				}
			})
		}
	})
	self, err := proc.ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range proc.Descendants(map[int]uint64{self.ID: self.Start}) {
		if st.State != 'Z' && st.Command != self.Command { // of that name is freezertest's reaper
			t.Errorf("process %d (%s) is left", st.ID, st.Command)
		}
	}
}

// observed is what each scene looks at, when it is not skipped.
var observed = map[string][]string{
	"1.": {"shells signalled", "shells frozen", "shells counted", "shells kept", "shells ended"},
	"2.": {"debugger signalled", "debugger program frozen", "debugger frozen", "debugger silent", "debugger ended"},
	"3.": {
		"blocker busy", "blocker named", "way thawed", "blocker busy", "way retried", "blocker answered",
		"blocker busy", "way vanished", "blocker gone", "way vanished, rest frozen",
	},
}

func TestAllIsSeenThatTheSpecificationSays(t *testing.T) {
	onEach(t, func(t *testing.T, f *freezer.Freezer) {
		var out strings.Builder
		r, err := Run(t.Context(), Options{Root: f.Root(), Out: &out})
		t.Log("\n" + out.String())
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, o := range r.Seen {
			seen[o.About]++
			if !o.Good {
				t.Errorf("%s: %s", o.About, o.Text)
			}
		}
		missing := 0
		for _, scene := range observed {
			for _, about := range scene {
				if seen[about]--; seen[about] < 0 {
					missing++
					t.Logf("not looked at: %s", about)
				}
			}
		}
		if missing > 0 && len(r.Skipped) == 0 {
			t.Error("something was not looked at, and not said to be skipped")
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Error("there are colours where none were asked for")
		}
	})
}

// A play is a demonstration in a process of its own.
type play struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	bad   bool // it reported something that should not be
}

func start(t *testing.T, f *freezer.Freezer) *play {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &play{cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), rootEnv+"="+f.Root())
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	freezertest.Run(t, p.cmd)
	return p
}

// read reads some lines, and reports whether there were so many.
func (p *play) read(lines int) bool {
	for range lines {
		if !p.lines.Scan() {
			return false
		}
		p.bad = p.bad || strings.Contains(p.lines.Text(), "BAD")
	}
	return true
}

// end reads the rest and returns the exit status, -1 when it was killed.
func (p *play) end() int {
	for p.read(1) {
	}
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// signals are those that end a demonstration in order.
var signals = []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE}

func TestInterruptedRunsLeaveNothing(t *testing.T) {
	onEach(t, func(t *testing.T, f *freezer.Freezer) {
		for i := range 12 {
			p := start(t, f)
			lines, later := 1+rand.IntN(90), time.Duration(rand.IntN(100))*time.Millisecond
			p.read(lines)
			time.Sleep(later) // this is the random moment, not a synchronization
			sig := signals[i%len(signals)]
			_ = p.cmd.Process.Signal(sig)
			status := p.end()
			if status != 128+int(sig) && status != 0 { // it may have come to its end before
				t.Errorf("after %d lines and %v, %s: exit status %d", lines, later, unix.SignalName(sig), status)
			}
			if p.bad {
				t.Errorf("after %d lines and %v, %s: it took the interruption for a fault", lines, later, unix.SignalName(sig))
			}
			if groups, err := f.Groups(); err != nil || len(groups) > 0 {
				t.Errorf("after %d lines and %v, %s: groups are left: %v %v", lines, later, unix.SignalName(sig), groups, err)
			}
		}
	})
}

func TestWhatAKilledRunLeftIsRemovedByTheNext(t *testing.T) {
	onEach(t, func(t *testing.T, f *freezer.Freezer) {
		for range 4 {
			p := start(t, f)
			if !p.read(rand.IntN(80)) {
				t.Skip("there is nothing to interrupt here")
			}
			_ = p.cmd.Process.Kill()
			p.end()
			if _, err := sweep(f); err != nil {
				t.Fatal(err)
			}
			if groups, err := f.Groups(); err != nil || len(groups) > 0 {
				t.Fatalf("groups are left: %v %v", groups, err)
			}
		}
	})
}

func TestARunIsNotSweptAwayByAnother(t *testing.T) {
	onEach(t, func(t *testing.T, f *freezer.Freezer) {
		p := start(t, f)
		for range 10 {
			p.read(5)
			if removed, err := sweep(f); err != nil || len(removed) > 0 {
				t.Errorf("removed %v: %v", removed, err)
			}
		}
		if status := p.end(); status != 0 {
			t.Errorf("exit status %d", status)
		}
	})
}

func TestAReaderWhoLeavesEndsIt(t *testing.T) {
	onEach(t, func(t *testing.T, f *freezer.Freezer) {
		r, err := Run(t.Context(), Options{Root: f.Root(), Out: &leaving{after: 10}})
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		if len(r.Seen) > len(observed["1."]) {
			t.Errorf("it went on to the next scene: %v", r.Seen)
		}
	})
}

// leaving is a reader who leaves after some lines.
type leaving struct{ after int }

func (l *leaving) Write(line []byte) (int, error) {
	if l.after--; l.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(line), nil
}

func TestAFrozenTreeIsReported(t *testing.T) {
	onEach(t, func(t *testing.T, f *freezer.Freezer) {
		g, err := f.CreateAll("a")
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err = Run(t.Context(), Options{Root: g.Dir(), Out: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "is frozen") {
			t.Errorf("the error is %v", err)
		}
		if children, err := g.Children(); err != nil || len(children) > 0 {
			t.Errorf("left: %v %v", children, err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutProgramsEachSceneIsSkipped(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, backend := range freezertest.Backends {
		f := freezertest.Tree(t, backend)
		r, err := Run(t.Context(), Options{Root: f.Root(), Out: io.Discard})
		if err != nil || len(r.Skipped) != len(scenes) || len(r.Seen) > 0 {
			t.Errorf("%s: %+v, %v", backend, r, err)
		}
	}
}
