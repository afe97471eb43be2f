package freezerfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

// agent installs a release agent that appends its argument to a file, and
// returns what says how often it was called for which group.
func (t *tree) agent(then string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log, program := filepath.Join(dir, "log"), filepath.Join(dir, "agent")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\n%s\n", log, strings.ReplaceAll(then, "$m", t.dir))
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.put(program, "release_agent")
	t.says(program, "release_agent")
	return func() []string {
		text, _ := os.ReadFile(log)
		return strings.Fields(string(text))
	}
}

// called waits until the agent was called for these, in any order, and as often
// as may be.
func called(t testing.TB, calls func() []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := calls()
		slices.Sort(got)
		if slices.Equal(slices.Compact(got), want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent was called for %v, want %v", got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func kill(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestTheReleaseAgentIsRunWhenTheLastTaskLeaves(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "quiet")
		tr.put("1", "a/notify_on_release")
		calls := tr.agent("")
		ends, moves, other := freezertest.Sleeper(t), freezertest.Sleeper(t), freezertest.Sleeper(t)
		tr.put(fmt.Sprint(other), "quiet/tasks")
		kill(t, other)
		tr.put(fmt.Sprint(ends), "a/tasks")
		tr.put(fmt.Sprint(moves), "a/tasks")
		kill(t, ends)
		freezertest.Eventually(t, "one is left", func() bool { return tr.read("a/tasks") == fmt.Sprintln(moves) })
		tr.put("FROZEN", "a/freezer.state")
		tr.put("THAWED", "a/freezer.state")
		tr.put(fmt.Sprint(moves), "tasks") // the last one leaves
		called(t, calls, "/a")
		before := len(calls())
		tr.put(fmt.Sprint(moves), "a/tasks")
		kill(t, moves)
		freezertest.Eventually(t, "it is called again", func() bool { return len(calls()) > before })
		// Short-lived: gone before one can look.
		for i := range 5 {
			name := fmt.Sprintf("a/%d", i)
			if ok, out := tr.may(root, `mkdir $m/`+name+` && sh -c 'echo 0 > $m/`+name+`/tasks'`); !ok {
				t.Fatal(out)
			}
		}
		called(t, calls, "/a", "/a/0", "/a/1", "/a/2", "/a/3", "/a/4")
	})
}

func TestGroupsInheritNotifyAndAreReleasedFromBelow(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		calls := tr.agent(`exec rmdir "$m/$1"`) // as agents do
		tr.mkdir("a")
		tr.says("0", "a/notify_on_release")
		tr.put("1", "a/notify_on_release")
		tr.put("1", "a/cgroup.clone_children")
		tr.mkdir("a/b", "a/b/c")
		tr.says("1", "a/b/c/notify_on_release")
		tr.says("1", "a/b/c/cgroup.clone_children")
		pid := freezertest.Sleeper(t)
		tr.put(fmt.Sprint(pid), "a/b/c/tasks")
		kill(t, pid)
		called(t, calls, "/a/b/c", "/a/b", "/a")
		freezertest.Eventually(t, "all are removed", func() bool { return !exists(tr.path("a")) })
	})
}

func TestAnEmptyGroupIsNotReleasedByItsFlag(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		calls := tr.agent("")
		tr.mkdir("a", "b")
		tr.put("1", "a/notify_on_release")
		tr.put("FROZEN", "a/freezer.state")
		tr.put("THAWED", "a/freezer.state")
		tr.put("0", "a/notify_on_release")
		tr.put("7", "a/notify_on_release")
		tr.says("1", "a/notify_on_release")
		tr.refuses("yes", "a/notify_on_release", syscall.EINVAL)
		tr.refuses("-1", "a/notify_on_release", syscall.EINVAL)
		tr.put("1", "b/notify_on_release")
		pid := freezertest.Sleeper(t)
		tr.put(fmt.Sprint(pid), "b/tasks")
		kill(t, pid)
		called(t, calls, "/b") // and nothing for a, whose turn was before
		tr.rmdir("a", "b")
		called(t, calls, "/b")
	})
}

func TestOfSeveralMountsOneRunsTheAgent(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		one := mount(t, backend, freezerfs.Options{})
		two := one.again()
		calls := two.agent("")
		one.mkdir("first")
		two.put("1", "first/notify_on_release")
		freezertest.Eventually(t, "the one that runs it has heard of the agent", func() bool {
			pid := freezertest.Sleeper(t)
			one.put(fmt.Sprint(pid), "first/tasks")
			kill(t, pid)
			return len(calls()) > 0
		})
		want := []string{"/first"}
		for i := range 6 {
			name := fmt.Sprint("g", i)
			one.mkdir(name)
			two.put("1", name+"/notify_on_release")
			pid := freezertest.Sleeper(t)
			one.put(fmt.Sprint(pid), name+"/tasks")
			kill(t, pid)
			want = append(want, "/"+name)
			called(t, calls, want...)
			if i == 2 { // whichever it was, the other goes on
				kill(t, one.server)
				freezertest.Eventually(t, "it is dead", func() bool { // EIO may come before
					var st syscall.Stat_t
					return syscall.Stat(one.path("tasks"), &st) == syscall.ENOTCONN
				})
				one = two
			}
		}
	})
}

func TestTheAgentIsKeptAndTakenAway(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.says("", "release_agent")
		tr.mkdir("a")
		tr.put("1", "a/notify_on_release")
		calls := tr.agent("")
		for range 2 {
			pid := freezertest.Sleeper(t)
			tr.put(fmt.Sprint(pid), "a/tasks")
			kill(t, pid)
			freezertest.Eventually(t, "it is gone", func() bool { return tr.read("a/tasks") == "" })
			called(t, calls, "/a")
			tr.put("\n", "release_agent") // no more
			tr.says("", "release_agent")
		}
	})
}
