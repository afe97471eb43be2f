package freezertest

import (
	"slices"
	"syscall"

	"github.com/cgfreezer/freezer"
)

// What becomes of the tasks.
var taskCases = []suiteCase{
	{"a process moved into a frozen group freezes", func(t *trial) {
		t.create("a")
		t.sleeper("a")
		t.freeze("a")
		pid := t.counter("a")
		t.becomes("a", freezer.Frozen)
		t.standsStill(pid)
		t.thaw("a")
		t.runs(pid)
	}},
	{"a process moved out of a frozen group runs", func(t *trial) {
		t.create("a", "b")
		out, over, stays := t.counter("a"), t.counter("a"), t.counter("a")
		t.freeze("a")
		t.standsStill(out, over)
		t.add("/", out)
		t.add("b", over)
		t.runs(out, over)
		t.has("a", stays)
		t.has("b", over)
		t.states("a", frozen)
		t.standsStill(stays)
	}},
	{"a process moved from frozen to frozen stays frozen", func(t *trial) {
		t.create("a", "b")
		pid := t.counter("a")
		t.freeze("a")
		t.freeze("b")
		t.add("b", pid)
		t.becomes("b", freezer.Frozen)
		t.standsStill(pid)
		t.thaw("a")
		t.standsStill(pid)
		t.thaw("b")
		t.runs(pid)
	}},
	{"a process is in one group at a time", func(t *trial) {
		t.create("a", "a/b", "c")
		pid := t.sleeper("a")
		t.has("a", pid)
		t.add("a/b", pid)
		t.has("a")
		t.has("a/b", pid)
		t.add("c", pid)
		t.add("c", pid)
		t.has("a/b")
		t.has("c", pid)
	}},
	{"lists of processes are in order", func(t *trial) {
		t.create("a")
		var pids []int
		for range 20 {
			pids = append(pids, t.Sleeper())
		}
		for _, pid := range slices.Backward(pids) {
			t.add("a", pid)
		}
		t.has("a", pids...)
	}},
	{"forks stay in the group", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		child := t.Fork(pid)
		t.has("a", pid, child)
		t.freeze("a")
		t.has("a", pid, child)
		t.thaw("a")
		another := t.Fork(pid)
		t.has("a", pid, child, another)
	}},
	{"zombies count as frozen and are not listed", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		child := t.Fork(pid) // for which nobody waits
		t.KillProcess(child)
		t.dies(child)
		Eventually(t, "the zombie is out of the list", func() bool {
			pids, err := t.Processes("a")
			return err == nil && slices.Equal(pids, []int{pid})
		})
		t.freeze("a")
		t.states("a", frozen)
		t.standsStill(pid)
	}},
	{"a group of zombies only is frozen and can be removed", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		child := t.Fork(pid)
		t.add("/", pid)
		t.has("a", child)
		t.KillProcess(child)
		t.dies(child)
		t.freeze("a")
		t.must("remove", t.Remove("a"))
	}},
	{"stopped processes count as frozen and stay stopped", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		t.Stop(pid)
		Eventually(t, "it is stopped", func() bool { return t.State(pid) == 'T' })
		t.freeze("a")
		t.states("a", frozen)
		t.thaw("a")
		Eventually(t, "it is still stopped", func() bool { return t.State(pid) == 'T' })
		t.standsStill(pid)
		t.Continue(pid)
		t.runs(pid)
	}},
	{"SIGSTOP sent to a frozen process acts at thaw", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		t.freeze("a")
		t.Stop(pid)
		t.effective("a", freezer.Frozen)
		t.standsStill(pid)
		t.thaw("a")
		Eventually(t, "it stops", func() bool { return t.State(pid) == 'T' })
		t.standsStill(pid)
		t.Continue(pid)
		t.runs(pid)
	}},
	{"SIGCONT sent to a frozen stopped process acts at thaw", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		t.Stop(pid)
		Eventually(t, "it is stopped", func() bool { return t.State(pid) == 'T' })
		t.freeze("a")
		t.Continue(pid)
		t.becomes("a", freezer.Frozen)
		t.standsStill(pid)
		t.thaw("a")
		t.runs(pid)
	}},
	{"ptraced processes count as frozen", func(t *trial) {
		w := need[ThreadWorld](t)
		t.create("a")
		pid := t.sleeper("a")
		detach := w.Trace(pid)
		t.freeze("a")
		t.thaw("a")
		t.states("a", thawed)
		detach()
		t.freeze("a")
	}},
	{"a process is frozen with all its threads", func(t *trial) {
		w := need[ThreadWorld](t)
		t.create("a")
		pid := t.counter("a")
		one, two := w.Thread(pid), w.Thread(pid)
		t.runs(pid, one, two)
		t.freeze("a")
		t.standsStill(pid, one, two)
		t.thaw("a")
		t.runs(pid, one, two)
	}},
	{"tasks are all threads of the processes", func(t *trial) {
		w, m := need[ThreadWorld](t), need[TaskMover](t)
		t.create("a")
		pid := t.counter("a")
		tid := w.Thread(pid)
		tids, err := m.Tasks("a")
		t.must("tasks", err)
		if !slices.Contains(tids, pid) || !slices.Contains(tids, tid) || !slices.IsSorted(tids) {
			t.Errorf("tasks of a: %v, want %d and %d among them, in order", tids, pid, tid)
		}
	}},
	{"a task that is its process's only one can be moved", func(t *trial) {
		m := need[TaskMover](t)
		t.create("a", "b")
		pid := t.Sleeper()
		t.must("add task", m.AddTask("a", pid))
		t.has("a", pid)
		t.must("add task", m.AddTask("b", pid))
		t.has("b", pid)
		t.has("a")
	}},
	{"one thread is frozen while the others run", func(t *trial) {
		w, m := need[ThreadWorld](t), need[TaskMover](t)
		t.create("a", "b")
		pid := t.counter("a")
		moved, stays := w.Thread(pid), w.Thread(pid)
		if err := m.AddTask("b", moved); is(err, syscall.EOPNOTSUPP) {
			t.has("a", pid)
			t.has("b")
			t.Skip("this target refuses to move one thread of many, with EOPNOTSUPP")
		} else {
			t.must("add task", err)
		}
		t.freeze("b")
		t.standsStill(moved)
		t.runs(pid, stays)
		t.freeze("a")
		t.standsStill(pid, stays, moved)
		t.thaw("b")
		t.runs(moved)
		t.standsStill(pid, stays)
	}},
	{"a tree of processes moves as a whole", func(t *trial) {
		m := need[TreeMover](t)
		t.create("a", "b")
		pid := t.counter("a")
		one, two := t.Fork(pid), t.Fork(pid)
		t.add("/", two)
		t.must("add tree", m.AddTree("b", pid))
		t.has("b", pid, one, two)
		t.has("a")
	}},
	{"a group that spawns without pause freezes", func(t *trial) {
		w := need[ThreadWorld](t)
		t.create("a")
		pid := t.counter("a")
		stop := w.Spawn(pid)
		for range 20 {
			t.freeze("a")
			t.thaw("a")
		}
		stop()
	}},
}
