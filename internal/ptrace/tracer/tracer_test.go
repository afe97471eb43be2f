package tracer

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestAGroupFreezesAndThaws(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	add(t, g, pid)
	freeze(t, g)
	if got := taskStates(pid); got != "t" {
		t.Errorf("state is %q", got)
	}
	thaw(t, g)
	eventually(t, "it sleeps again", func() bool { return taskStates(pid) == "S" })
}

func TestAProcessWhoseFirstThreadHasEndedFreezes(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	c := newCounter(t)
	pid := start(t, compiled(t, "storm"), "headless", c.path).Process.Pid
	add(t, g, pid)
	for range 3 {
		c.runs(t)
		freeze(t, g)
		if !c.stands() {
			t.Error("it runs")
		}
		thaw(t, g)
	}
}

func TestAMemberThatWasHeldBeforeMayHaveBecomeAnother(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	c := newCounter(t)
	cmd := exec.Command("sh", "-c", `read x; exec "$@"`, "sh", compiled(t, "storm"), "busy", c.path, "4")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, cmd)
	add(t, g, cmd.Process.Pid)
	corpse := start(t, "sleep", "1000")
	add(t, g, corpse.Process.Pid)
	freeze(t, g)
	thaw(t, g)
	if _, err := in.Write([]byte("\n")); err != nil { // now it has threads
		t.Fatal(err)
	}
	_ = corpse.Process.Kill() // and this one is a zombie
	eventually(t, "one is dead", func() bool { return !alive(corpse.Process.Pid) })
	eventually(t, "one has threads", func() bool { return len(taskStates(cmd.Process.Pid)) == 4 })
	for range 3 {
		c.runs(t)
		freeze(t, g)
		if got := taskStates(cmd.Process.Pid); got != "tttt" || !c.stands() {
			t.Errorf("the states of its threads are %q", got)
		}
		thaw(t, g)
	}
}

func TestNumbersThatWereGiven(t *testing.T) {
	for _, test := range []struct {
		from, pid, to int
		want          bool
	}{
		{10, 11, 12, true}, {10, 12, 12, true}, {10, 10, 12, false}, {10, 13, 12, false}, {10, 10, 10, false}, {10, 11, 10, false},
		{30, 31, 5, true}, {30, 5, 5, true}, {30, 4, 5, true}, {30, 6, 5, false}, {30, 30, 5, false},
	} {
		if got := given(test.from, test.pid, test.to); got != test.want {
			t.Errorf("given(%d, %d, %d) = %v", test.from, test.pid, test.to, got)
		}
	}
}

func TestTheTracerEndsWhenItHoldsNothing(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	freeze(t, g)
	pid := tracerOf(h)
	time.Sleep(lingers + 200*time.Millisecond)
	if !alive(pid) {
		t.Fatal("it ended although a group is frozen, though an empty one")
	}
	thaw(t, g)
	eventually(t, "it ends", func() bool { return !alive(pid) })
	if on, err := g.Freezing(); on || err != nil {
		t.Errorf("freezing: %v, %v", on, err)
	}
	freeze(t, g) // by another one
	if again := tracerOf(h); again == pid || again == 0 {
		t.Errorf("the tracer is %d, and was %d", again, pid)
	}
}

func TestOneTracerServesAllWhoAskAtOnce(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	done := make(chan error)
	for range 8 {
		go func() {
			other := &Hierarchy{mount: h.mount}
			_, err := other.ask(true, "hello", 0, "")
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	freeze(t, g)
}
