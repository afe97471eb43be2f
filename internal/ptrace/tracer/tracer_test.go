package tracer

import (
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
