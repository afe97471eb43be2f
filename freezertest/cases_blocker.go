package freezertest

import "github.com/cgfreezer/freezer"

// Freezing can be incomplete: "In that case we return EBUSY. … The state will
// remain FREEZING until one of these things happens".
var blockerCases = []suiteCase{
	{"incomplete freezing is EBUSY and the group stays FREEZING", func(t *trial) {
		t.create("a")
		pid := t.blocked("a")
		t.states("a", busy)
		t.standsStill(pid) // what can be frozen is
	}},
	{"THAWED cancels incomplete freezing", func(t *trial) {
		t.create("a")
		pid := t.blocked("a")
		t.thaw("a")
		t.states("a", thawed)
		t.runs(pid)
	}},
	{"incomplete freezing is asked again with success", func(t *trial) {
		t.create("a")
		blocker, release := t.Blocker()
		t.add("a", blocker)
		t.refused("freeze", t.Freeze("a"), errBusy)
		release()
		t.freeze("a")
		t.states("a", frozen)
	}},
	{"incomplete freezing completes when the blocker moves away", func(t *trial) {
		t.create("a")
		blocker, _ := t.Blocker()
		stays := t.counter("a")
		t.add("a", blocker)
		t.refused("freeze", t.Freeze("a"), errBusy)
		t.add("/", blocker)
		t.becomes("a", freezer.Frozen)
		t.has("a", stays)
	}},
	{"incomplete freezing completes when the blocker goes on", func(t *trial) {
		t.create("a")
		blocker, release := t.Blocker()
		t.add("a", blocker)
		t.refused("freeze", t.Freeze("a"), errBusy)
		release()
		t.becomes("a", freezer.Frozen)
	}},
	{"a frozen group that a blocker joins is FREEZING until it is gone", func(t *trial) {
		t.create("a")
		stays := t.counter("a")
		t.freeze("a")
		blocker, _ := t.Blocker()
		t.add("a", blocker)
		t.becomes("a", freezer.Freezing)
		t.standsStill(stays)
		t.add("/", blocker)
		t.becomes("a", freezer.Frozen)
	}},
	{"a blocker below keeps those above FREEZING", func(t *trial) {
		t.create("a", "a/b", "a/c")
		blocker, release := t.Blocker()
		t.add("a/b", blocker)
		stays := t.counter("a/c")
		t.refused("freeze", t.Freeze("a"), errBusy)
		t.states("a", busy)
		t.states("a/b", "THAWED FREEZING FREEZING")
		t.states("a/c", inherited)
		t.standsStill(stays)
		release()
		t.becomes("a", freezer.Frozen)
		t.becomes("a/b", freezer.Frozen)
	}},
	{"the blocker is named and nothing else", func(t *trial) {
		x := need[Explainer](t)
		t.create("a", "a/b")
		blocker, release := t.Blocker()
		t.add("a/b", blocker)
		t.sleeper("a")
		t.counter("a/b")
		if b, err := x.Blockers("a"); len(b) > 0 || err != nil {
			t.Errorf("a thawed group has blockers %v, %v", b, err)
		}
		t.refused("freeze", t.Freeze("a"), errBusy)
		b, err := x.Blockers("a")
		t.must("blockers", err)
		if len(b) != 1 || b[0].TID != blocker || b[0].Group != "a/b" {
			t.Errorf("blockers of a: %+v, want task %d in a/b", b, blocker)
		}
		release()
		t.becomes("a", freezer.Frozen)
		if b, err := x.Blockers("a"); len(b) > 0 || err != nil {
			t.Errorf("a frozen group has blockers %v, %v", b, err)
		}
	}},
}

// blocked freezes a group with a blocker and a Counter in vain, and returns the
// Counter.
func (t *trial) blocked(group string) (counter int) {
	t.Helper()
	blocker, _ := t.Blocker()
	counter = t.counter(group)
	t.add(group, blocker)
	t.refused("freeze with a blocker", t.Freeze(group), errBusy)
	return counter
}
