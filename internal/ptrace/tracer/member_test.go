package tracer

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// shell starts a shell that is told commands, and returns what tells it.
func shell(t testing.TB, variables ...string) (pid int, tell func(command string) string) {
	t.Helper()
	cmd := exec.Command("sh")
	cmd.Env = append(os.Environ(), variables...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, cmd)
	return cmd.Process.Pid, func(command string) string {
		if _, err := in.Write([]byte(command + "; echo; echo end\n")); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for buf := make([]byte, 1); !strings.HasSuffix(b.String(), "end\n"); {
			if _, err := out.Read(buf); err != nil {
				t.Fatalf("the shell ended: %v", err)
			}
			b.Write(buf)
		}
		return strings.TrimSpace(strings.TrimSuffix(b.String(), "end\n"))
	}
}

// background has a shell start a program that sleeps.
func background(t testing.TB, tell func(string) string, how string) int {
	t.Helper()
	pid, err := strconv.Atoi(tell(how))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	return pid
}

const (
	child  = "sleep 1000 >/dev/null & echo $!"
	orphan = "(sleep 1000 >/dev/null & echo $!)"
	naked  = "(env -i sleep 1000 >/dev/null & echo $!)"
)

func (g *Group) has(t testing.TB, pid int) bool {
	t.Helper()
	pids, err := g.Processes()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := g.h.Dir(pid)
	if err != nil {
		t.Fatal(err)
	}
	in := slices.Contains(pids, pid)
	if in != (dir == g.dir.Path()) {
		t.Errorf("%d is in the list: %v, but in %s", pid, in, dir)
	}
	return in
}

func orphaned(t testing.TB, pid int) {
	t.Helper()
	eventually(t, "its parent has ended", func() bool {
		s, err := proc.ReadStat(pid)
		p, gone := proc.ReadStat(s.Parent)
		return err != nil || gone != nil || p.Command != "sh"
	})
}

func TestChildrenBelongToTheGroupOfTheirParent(t *testing.T) {
	h := place(t)
	a, b := group(t, h, "t/a"), group(t, h, "t/b")
	pid, tell := shell(t)
	before := background(t, tell, child)
	add(t, a, pid)
	after := background(t, tell, child)
	if a.has(t, before) {
		t.Error("a child that was there before its parent came is in the group")
	}
	if !a.has(t, pid) || !a.has(t, after) {
		t.Error("the process or its new child is not in the group")
	}
	add(t, b, pid)
	if !a.has(t, after) || !b.has(t, pid) {
		t.Error("a child went with its parent")
	}
	if later := background(t, tell, child); !b.has(t, later) {
		t.Error("a child is not in its parent's new group")
	}
}

func TestOrphansBelongToTheGroupOfTheirMarker(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	mark, err := h.Mark(g.dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	pid, tell := shell(t, mark)
	add(t, g, pid)
	one, lost := background(t, tell, orphan), background(t, tell, naked)
	orphaned(t, one)
	orphaned(t, lost)
	eventually(t, "it has lost the marker", func() bool { s, _ := proc.ReadStat(lost); return s.Command == "sleep" })
	if !g.has(t, one) {
		t.Error("an orphan with the marker is not in the group")
	}
	if g.has(t, lost) {
		t.Error("an orphan without the marker is in the group: the documentation says otherwise")
	}
	freeze(t, g)
	if got := taskStates(one); got != "t" {
		t.Errorf("the orphan is in state %q", got)
	}
	if err := h.MoveProcess(h.mount, one); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was moved out runs", func() bool { return taskStates(one) == "S" })
	if g.has(t, one) {
		t.Error("its marker counts for more than that it was moved out")
	}
}

func TestAFreezeRecordsTheMembers(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid, tell := shell(t)
	add(t, g, pid)
	one := background(t, tell, child)
	freeze(t, g)
	eventually(t, "the child has a record", func() bool { _, ok := h.recordOf(one); return ok })
	_ = unix.Kill(pid, unix.SIGKILL)
	eventually(t, "its parent is dead", func() bool { return !alive(pid) })
	thaw(t, g)
	if !g.has(t, one) {
		t.Error("a member that was frozen is none any more when its parent has ended")
	}
}

func TestMovesBetweenGroupsFreezeAndThaw(t *testing.T) {
	h := place(t)
	frozen, thawed := group(t, h, "t/frozen"), group(t, h, "t/thawed")
	below := group(t, h, "t/frozen/below")
	pid := start(t, "sleep", "1000").Process.Pid
	freeze(t, frozen)
	for _, g := range []*Group{frozen, below, frozen} {
		add(t, g, pid)
		eventually(t, "what is moved in freezes", func() bool { return taskStates(pid) == "t" })
		eventually(t, "the group is frozen again", func() bool { ok, _ := frozen.Frozen(); return ok })
	}
	add(t, thawed, pid)
	eventually(t, "what is moved out runs", func() bool { return taskStates(pid) == "S" })
	if ok, _ := frozen.Frozen(); !ok {
		t.Error("the empty group is not frozen")
	}
}

func TestAGroupStaysFrozenUnderAFrozenParent(t *testing.T) {
	h := place(t)
	a, b := group(t, h, "t/a"), group(t, h, "t/a/b")
	c := newCounter(t)
	pid := start(t, compiled(t, "storm"), "busy", c.path, "2").Process.Pid
	add(t, b, pid)
	c.runs(t)
	freeze(t, a)
	freeze(t, b)
	thaw(t, a)
	if !c.stands() {
		t.Error("it ran although it was frozen itself")
	}
	thaw(t, b)
	c.runs(t)
	freeze(t, b)
	freeze(t, a)
	stood := c.n.Load()
	thaw(t, b)
	if !c.stands() || c.n.Load() != stood {
		t.Error("it ran although its parent was frozen")
	}
	freeze(t, b)
	thaw(t, a)
	if !c.stands() || c.n.Load() != stood {
		t.Error("it ran between the two")
	}
}
