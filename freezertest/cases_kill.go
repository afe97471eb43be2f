package freezertest

import "os"

import "github.com/cgfreezer/freezer"

// Kill ends all tasks, wherever freezing left them, and nothing else.
var killCases = []suiteCase{
	{"kill ends a thawed group", func(t *trial) {
		t.create("a")
		t.killed("a", t.counter("a"), t.sleeper("a"))
		t.settles("a", thawed)
	}},
	{"kill ends a frozen group, which stays frozen", func(t *trial) {
		t.create("a")
		pids := []int{t.counter("a"), t.sleeper("a")}
		t.freeze("a")
		t.killed("a", pids...)
		t.settles("a", frozen)
	}},
	{"kill ends what is below and not what is above or beside", func(t *trial) {
		t.create("a", "a/b", "a/b/c", "a/d")
		above, beside := t.counter("a"), t.counter("a/d")
		pids := []int{t.sleeper("a/b"), t.sleeper("a/b/c")}
		t.freeze("a/b/c")
		t.killed("a/b", pids...)
		t.has("a/b/c")
		t.runs(above, beside)
	}},
	{"kill works below a frozen ancestor, and nothing else runs", func(t *trial) {
		t.create("a", "a/b", "a/c")
		above, beside := t.counter("a"), t.counter("a/c")
		pid := t.counter("a/b")
		t.freeze("a")
		t.killed("a/b", pid)
		t.settles("a", frozen)
		t.settles("a/b", inherited)
		t.standsStill(above, beside)
		t.alive(above, beside)
		t.thaw("a")
		t.runs(above, beside)
	}},
	{"kill works when the root is frozen", func(t *trial) {
		if os.Geteuid() != 0 { // cgroup1 lets the frozen die in a thawed group only, for which a user may have no place
			t.Skip("a user's whole tree is frozen: whether its tasks can die depends on the host")
		}
		t.create("a")
		pid := t.counter("a")
		if err := t.Freeze("/"); err != nil {
			t.Skipf("this target's root cannot be frozen: %v", err)
		}
		t.killed("a", pid)
		t.thaw("/")
	}},
	{"kill ends what was stopped before it was frozen", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		t.Stop(pid)
		Eventually(t, "it is stopped", func() bool { return t.State(pid) == 'T' })
		t.freeze("a")
		t.killed("a", pid)
	}},
	{"kill ends a group that spawns without pause", func(t *trial) {
		w := need[ThreadWorld](t)
		t.create("a")
		pid := t.counter("a")
		w.Spawn(pid)
		t.killed("a", pid)
	}},
	{"kill of an empty group does nothing", func(t *trial) {
		t.create("a")
		t.killed("a")
	}},
	{"kill is EBUSY when something cannot die, which stays in the group", func(t *trial) {
		k := need[Killer](t)
		t.create("a")
		blocker, release := t.Blocker()
		t.add("a", blocker)
		other := t.sleeper("a")
		t.refused("kill", k.Kill("a"), errBusy)
		t.has("a", blocker)
		t.dies(other)
		release()
		t.kill("a")
		t.dies(blocker)
	}},
	{"kill is EBUSY when something cannot die in a frozen group", func(t *trial) {
		k := need[Killer](t)
		t.create("a")
		blocker, release := t.Blocker()
		t.add("a", blocker)
		t.refused("freeze", t.Freeze("a"), errBusy)
		t.refused("kill", k.Kill("a"), errBusy)
		t.has("a", blocker)
		t.effective("a", freezer.Freezing)
		release()
		t.kill("a")
		t.dies(blocker)
	}},
}

// kill kills a group, and again when the machine is slow.
func (t *trial) kill(group string) {
	t.Helper()
	k := need[Killer](t)
	Eventually(t, "killing "+group+" succeeds", func() bool {
		err := k.Kill(group)
		if err != nil && !is(err, errBusy) {
			t.Fatalf("kill %s: %v", group, err)
		}
		return err == nil
	})
}

// killed kills a group and sees that these died, and that it is empty.
func (t *trial) killed(group string, pids ...int) {
	t.Helper()
	t.kill(group)
	t.has(group)
	t.dies(pids...)
	t.must("states", func() error { _, err := t.States(group); return err }())
}
