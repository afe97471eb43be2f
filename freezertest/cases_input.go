package freezertest

import (
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// What bad input gets: an error of its own, and nothing changes.
var inputCases = []suiteCase{
	{"groups are listed as a tree", func(t *trial) {
		want := []string{"a", "a/b", "a/b/c", "d", "e f", "-g", "ä"}
		t.create(want...)
		t.listed(want...)
		t.must("remove", t.Remove("a/b/c"))
		t.must("remove", t.Remove("a/b"))
		t.listed("a", "d", "e f", "-g", "ä")
	}},
	{"a group that exists cannot be made", func(t *trial) {
		t.create("a")
		pid := t.sleeper("a")
		t.freeze("a")
		t.refused("create", t.Create("a"), syscall.EEXIST)
		t.states("a", frozen)
		t.has("a", pid)
	}},
	{"a group cannot be made below one that is missing", func(t *trial) {
		t.refused("create", t.Create("no/a"), syscall.ENOENT)
		t.listed()
	}},
	{"names that cannot be are refused", func(t *trial) {
		t.create("a")
		for _, name := range []string{"a\nb", "a\x00b", strings.Repeat("x", 256), "a/" + strings.Repeat("x", 256)} {
			t.refused("create", t.Create(name), syscall.EINVAL, syscall.ENAMETOOLONG)
		}
		t.create(strings.Repeat("x", 255))
		t.listed("a", strings.Repeat("x", 255))
	}},
	{"an unknown group is ENOENT", func(t *trial) {
		pid := t.Sleeper()
		_, statesErr := t.States("no")
		_, processesErr := t.Processes("no")
		for what, err := range map[string]error{
			"freeze": t.Freeze("no"), "thaw": t.Thaw("no"), "remove": t.Remove("no"),
			"add": t.Add("no", pid), "states": statesErr, "processes": processesErr,
		} {
			t.refused(what, err, syscall.ENOENT)
		}
		t.listed()
		if k, ok := t.System.(Killer); ok {
			t.refused("kill", k.Kill("no"), syscall.ENOENT)
		}
		if m, ok := t.System.(TaskMover); ok {
			t.refused("add task", m.AddTask("no", pid), syscall.ENOENT)
		}
	}},
	{"a group with tasks or children cannot be removed", func(t *trial) {
		t.create("a", "a/b", "c")
		pid := t.sleeper("c")
		t.refused("remove with a child", t.Remove("a"), syscall.EBUSY)
		t.refused("remove with a task", t.Remove("c"), syscall.EBUSY)
		t.freeze("c")
		t.refused("remove while frozen", t.Remove("c"), syscall.EBUSY)
		t.has("c", pid)
		t.add("/", pid)
		t.must("remove", t.Remove("c"))
		t.listed("a", "a/b")
	}},
	{"PIDs that cannot be are refused", func(t *trial) {
		t.create("a")
		for _, pid := range []int{-1, -1 << 31, 1<<22 + 1, 1<<31 - 1} {
			t.refused("add", t.Add("a", pid), syscall.EINVAL, syscall.ESRCH)
		}
		t.has("a")
	}},
	{"a dead process is ESRCH", func(t *trial) {
		t.create("a")
		t.refused("add", t.Add("a", deadPID(t)), syscall.ESRCH)
		if m, ok := t.System.(TaskMover); ok {
			t.refused("add task", m.AddTask("a", deadPID(t)), syscall.ESRCH)
		}
		t.has("a")
	}},
	{"a kernel thread is EINVAL", func(t *trial) {
		w := need[ThreadWorld](t)
		t.create("a")
		t.refused("add", t.Add("a", w.KernelThread()), syscall.EINVAL)
		t.has("a")
	}},
}

// listed fails the test unless the tree's groups are these.
func (t *trial) listed(want ...string) {
	t.Helper()
	got, err := t.List()
	t.must("list", err)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("groups: %q, want %q", got, want)
	}
}

// deadPID is the PID of a process that ended and was waited for.
func deadPID(t *trial) int {
	t.Helper()
	cmd := exec.Command("true")
	t.must("true", cmd.Run())
	return cmd.Process.Pid
}
