package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// start runs the program on a tree.
func start(t *testing.T, f *freezer.Freezer, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(built(t), args...)
	cmd.Env = environ(f)
	freezertest.Run(t, cmd)
	return cmd
}

// environ is the environment of a program that shall work on a tree.
func environ(f *freezer.Freezer) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FREEZER_") })
	return append(env, "FREEZER_ROOT="+f.Root(), "FREEZER_BACKEND="+f.Backend())
}

// interrupt sends a signal after a while and returns how the program ended.
func interrupt(t *testing.T, cmd *exec.Cmd, after time.Duration, sig syscall.Signal) syscall.WaitStatus {
	t.Helper()
	time.Sleep(after)
	_ = cmd.Process.Signal(sig) // it may have ended
	_ = cmd.Wait()
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

func eachKernelBackend(t *testing.T, test func(t *testing.T, f *freezer.Freezer)) {
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		t.Run(backend, func(t *testing.T) { test(t, freezertest.Tree(t, backend)) })
	}
}

func group(t *testing.T, f *freezer.Freezer, name string, pids ...int) *freezer.Group {
	t.Helper()
	if _, err := f.AddAll(name, pids, false); err != nil {
		t.Fatal(err)
	}
	g, err := f.Group(name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func state(t *testing.T, g *freezer.Group) freezer.State {
	t.Helper()
	s, err := g.State()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tries of each command; the moments are spread over what it takes.
const tries = 40

func TestAFreezeInterruptedAtAnyMomentIsDoneOrUndone(t *testing.T) {
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		g := group(t, f, "g", freezertest.Sleeper(t))
		built(t)
		began := time.Now()
		if err := start(t, f, "freeze", "g").Wait(); err != nil {
			t.Fatal(err)
		}
		takes := time.Since(began)
		for range tries {
			if err := g.Thaw(); err != nil {
				t.Fatal(err)
			}
			status := interrupt(t, start(t, f, "freeze", "g"), rand.N(2*takes), syscall.SIGINT)
			switch s := state(t, g); {
			case status.Exited() && status.ExitStatus() == 0 && s == freezer.Frozen:
			case status.Signaled() && status.Signal() == syscall.SIGINT && s == freezer.Thawed:
			default:
				t.Fatalf("it ended with %v, and the group is %v", describe(status), s)
			}
		}
	})
}

func TestAFreezeThatCannotEndIsUndoneByEachSignal(t *testing.T) {
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		pid, _ := freezertest.Blocker(t)
		g, other := group(t, f, "g", pid), group(t, f, "other", freezertest.Sleeper(t))
		for i, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
			if signal.Ignored(sig) { // as under nohup
				continue
			}
			args := []string{"freeze", "--timeout=60s", "g", "other"}[:3+i%2]
			cmd := start(t, f, args...)
			freezertest.Eventually(t, "it is FREEZING", func() bool { return state(t, g) == freezer.Freezing })
			status := interrupt(t, cmd, 0, sig)
			if !status.Signaled() || status.Signal() != sig {
				t.Errorf("%v: it ended with %v", sig, describe(status))
			}
			if s, s2 := state(t, g), state(t, other); s != freezer.Thawed || s2 != freezer.Thawed {
				t.Errorf("%v: the groups are %v and %v", sig, s, s2)
			}
		}
	})
}

func TestASignalThatIsIgnoredDoesNotInterrupt(t *testing.T) {
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		pid, release := freezertest.Blocker(t)
		g := group(t, f, "g", pid)
		cmd := exec.Command("sh", "-c", `trap "" INT HUP; exec "$0" freeze --timeout=60s g`, built(t))
		cmd.Env = environ(f)
		freezertest.Run(t, cmd)
		freezertest.Eventually(t, "it is FREEZING", func() bool { return state(t, g) == freezer.Freezing })
		for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
		release()
		if err := cmd.Wait(); err != nil || state(t, g) != freezer.Frozen {
			t.Errorf("%v, and the group is %v", err, state(t, g))
		}
	})
}

func TestAnAddInterruptedAtAnyMomentIsDoneOrUndone(t *testing.T) {
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		one, two := freezertest.Sleeper(t), freezertest.Sleeper(t)
		home := group(t, f, "home", one, two)
		g, err := f.Group("new/group")
		if err != nil {
			t.Fatal(err)
		}
		for i := range tries {
			cmd := start(t, f, "add", "new/group", strconv.Itoa(one), strconv.Itoa(two))
			status := interrupt(t, cmd, rand.N(8*time.Millisecond), syscall.SIGINT)
			all, none := g.Contains(one) && g.Contains(two), home.Contains(one) && home.Contains(two)
			switch {
			case status.Exited() && status.ExitStatus() == 0 && all:
			case status.Signaled() && none && !g.Exists():
			default:
				t.Fatalf("try %d: it ended with %v; all moved: %v, none moved: %v", i, describe(status), all, none)
			}
			group(t, f, "home", one, two)
			for _, name := range []string{"new/group", "new"} {
				if g, err := f.Group(name); err == nil {
					_ = g.Remove() // if it is there
				}
			}
		}
	})
}

// A signal is most easily lost just when the program takes the command's place.
// FREEZER_TEST_SIGNALS says how many are sent to each command.
func TestASignalAtAnyMomentReachesTheCommandOrItsProgram(t *testing.T) {
	signals := 100
	if long, err := strconv.Atoi(os.Getenv("FREEZER_TEST_SIGNALS")); err == nil {
		signals = long
	}
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		if err := group(t, f, "frozen", freezertest.Sleeper(t)).Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"run", "-g", "g"}, {"exec", "--thawed", "frozen"}} {
			built(t)
			takes, lost := time.Hour, 0
			for range 5 {
				began := time.Now()
				if err := start(t, f, append(args, "--", "true")...).Wait(); err != nil {
					t.Fatal(err)
				}
				takes = min(takes, time.Since(began))
			}
			for i := range signals {
				sig := interrupts[i%len(interrupts)].(syscall.Signal)
				if signal.Ignored(sig) { // as under nohup
					continue
				}
				cmd := start(t, f, append(args, "--", "sleep", "10")...)
				status := interrupt(t, cmd, rand.N(5*takes/4), sig)
				if !status.Signaled() || status.Signal() != sig {
					t.Errorf("try %d of %s: %v, and it ended with %v", i, args[0], sig, describe(status))
					lost++
				}
			}
			t.Logf("%s: %d of %d signals were lost", args[0], lost, signals)
		}
	})
}

func TestAKillThatWaitsCanBeInterrupted(t *testing.T) {
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		stuck, release := freezertest.Blocker(t)
		sleeper := freezertest.Sleeper(t)
		g := group(t, f, "g", stuck, sleeper)
		cmd := exec.Command(built(t), "kill", "--timeout=60s", "g")
		cmd.Env = environ(f)
		var text strings.Builder
		cmd.Stderr = &text
		freezertest.Run(t, cmd)
		freezertest.Eventually(t, "the other process is dead", func() bool {
			p, ok := freezer.Describe(sleeper)
			return !ok || p.State == "Z"
		})
		if status := interrupt(t, cmd, 0, syscall.SIGINT); !status.Signaled() || status.Signal() != syscall.SIGINT {
			t.Errorf("it ended with %v", describe(status))
		}
		if !strings.Contains(text.String(), fmt.Sprintf("task %d (cat)", stuck)) {
			t.Errorf("it does not say who lives on: %s", text.String())
		}
		release()
		freezertest.Eventually(t, "it is dead as well", func() bool {
			pids, err := g.Processes()
			return err == nil && len(pids) == 0
		})
	})
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "the signal " + s.Signal().String()
	}
	return fmt.Sprintf("status %d", s.ExitStatus())
}
