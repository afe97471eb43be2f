package freezertest

import (
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
)

// A suiteCase is one thing that each System must do.
type suiteCase struct {
	name string
	run  func(*trial)
}

// Suite runs all cases against a target, each on a System of its own. What a
// target cannot do by its nature is skipped with the reason.
func Suite(t *testing.T, target Target) {
	for _, c := range slices.Concat(stateCases, taskCases, blockerCases, killCases, inputCases) {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			system, world := target(t)
			c.run(&trial{t, system, world})
		})
	}
}

// A trial is what a case has to work with.
type trial struct {
	*testing.T
	System
	World
}

// need returns what the System or World can do besides, or skips the case.
func need[T any](t *trial) T {
	t.Helper()
	for _, x := range []any{t.System, t.World} {
		if can, ok := x.(T); ok {
			return can
		}
	}
	t.Skipf("this target is no %s", reflect.TypeFor[T]().Name())
	panic("unreachable")
}

func (t *trial) must(what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// refused fails the test unless err is one of the errnos.
func (t *trial) refused(what string, err error, errnos ...error) {
	t.Helper()
	if !is(err, errnos...) {
		t.Errorf("%s: got %v (%v), want one of %v", what, err, freezer.Errno(err), errnos)
	}
}

func (t *trial) create(groups ...string) {
	t.Helper()
	for _, g := range groups {
		t.must("create "+g, t.Create(g))
	}
}

func (t *trial) add(group string, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		t.must("add to "+group, t.Add(group, pid))
	}
}

func (t *trial) freeze(group string) {
	t.Helper()
	Eventually(t, "freezing "+group+" succeeds", func() bool {
		err := t.Freeze(group)
		if err != nil && !is(err, errBusy) { // busy it may be on a slow machine
			t.Fatalf("freeze %s: %v", group, err)
		}
		return err == nil
	})
	t.effective(group, freezer.Frozen) // contract: nil only when it is FROZEN
}

func (t *trial) thaw(group string) {
	t.Helper()
	t.must("thaw "+group, t.Thaw(group))
}

// states fails the test unless the group's states are, at once, self, parent
// and effective.
func (t *trial) states(group string, want string) {
	t.Helper()
	s, err := t.States(group)
	t.must("states of "+group, err)
	if got := words(s); got != want {
		t.Errorf("%s is %s, want %s", group, got, want)
	}
}

// settles is states for when the dead may be in the way for another moment.
func (t *trial) settles(group string, want string) {
	t.Helper()
	Eventually(t, group+" is "+want, func() bool {
		s, err := t.States(group)
		return err == nil && words(s) == want
	})
}

// words are self, parent and effective state.
func words(s freezer.States) string {
	return s.Self.String() + " " + s.Parent.String() + " " + s.Effective.String()
}

func (t *trial) effective(group string, want freezer.State) {
	t.Helper()
	s, err := t.States(group)
	t.must("states of "+group, err)
	if s.Effective != want {
		t.Errorf("%s is %s, want %s", group, s.Effective, want)
	}
}

// becomes waits for an effective state.
func (t *trial) becomes(group string, want freezer.State) {
	t.Helper()
	Eventually(t, group+" is "+want.String(), func() bool {
		s, err := t.States(group)
		return err == nil && s.Effective == want
	})
}

// has fails the test unless the group's processes are these.
func (t *trial) has(group string, want ...int) {
	t.Helper()
	got, err := t.Processes(group)
	t.must("processes of "+group, err)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s has processes %v, want %v", group, got, want)
	}
}

// runs waits until each of these counts on.
func (t *trial) runs(ids ...int) {
	t.Helper()
	for _, id := range ids {
		before := t.Count(id)
		Eventually(t, "it counts", func() bool { return t.Count(id) > before })
	}
}

// watch is how long a process that must not run is looked at. It is no matter
// of luck: one that is frozen never counts on.
const watch = 40 * time.Millisecond

// standsStill fails the test if one of these counts on.
func (t *trial) standsStill(ids ...int) {
	t.Helper()
	before := make([]uint64, len(ids))
	for i, id := range ids {
		before[i] = t.Count(id)
	}
	time.Sleep(watch)
	for i, id := range ids {
		if now := t.Count(id); now != before[i] {
			t.Errorf("task %d counted from %d to %d while it should stand still", id, before[i], now)
		}
	}
}

// dies waits until a process has ended.
func (t *trial) dies(pids ...int) {
	t.Helper()
	for _, pid := range pids {
		Eventually(t, "the process ends", func() bool { return t.State(pid) == 'Z' })
	}
}

func (t *trial) alive(pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if t.State(pid) == 'Z' {
			t.Errorf("process %d is dead", pid)
		}
	}
}

// counter starts a Counter in a group and sees it run.
func (t *trial) counter(group string) int {
	t.Helper()
	pid := t.Counter()
	t.runs(pid)
	t.add(group, pid)
	return pid
}

// sleeper starts a Sleeper in a group.
func (t *trial) sleeper(group string) int {
	t.Helper()
	pid := t.Sleeper()
	t.add(group, pid)
	return pid
}

// The names of the states that the cases use most, as words gives them.
const (
	thawed     = "THAWED THAWED THAWED"
	frozen     = "FREEZING THAWED FROZEN"
	frozenBoth = "FREEZING FREEZING FROZEN"
	inherited  = "THAWED FREEZING FROZEN"
	busy       = "FREEZING THAWED FREEZING"
)

var errBusy = syscall.EBUSY
