package freezertest

import (
	"fmt"
	"sync"
	"syscall"

	"github.com/cgfreezer/freezer"
)

// What the states of groups are, and that they are what the tasks do.
var stateCases = []suiteCase{
	{"a new group is thawed", func(t *trial) {
		t.create("a")
		t.states("a", thawed)
	}},
	{"an empty group is frozen at once", func(t *trial) {
		t.create("a")
		t.freeze("a")
		t.states("a", frozen)
		t.thaw("a")
		t.states("a", thawed)
	}},
	{"what is frozen does not run and goes on after thaw", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		t.runs(pid)
		for range 3 {
			t.freeze("a")
			t.states("a", frozen)
			t.standsStill(pid)
			t.thaw("a")
			t.states("a", thawed)
			t.runs(pid)
		}
		t.has("a", pid)
	}},
	{"freezing the frozen and thawing the thawed changes nothing", func(t *trial) {
		t.create("a")
		pid := t.counter("a")
		t.thaw("a")
		t.runs(pid)
		t.freeze("a")
		t.freeze("a")
		t.standsStill(pid)
		t.thaw("a")
		t.thaw("a")
		t.runs(pid)
	}},
	{"a frozen parent freezes what is below it", func(t *trial) {
		t.create("a", "a/b", "a/b/c")
		pid := t.counter("a/b/c")
		t.freeze("a")
		t.states("a", frozen)
		t.states("a/b", inherited)
		t.states("a/b/c", inherited)
		t.standsStill(pid)
		t.thaw("a")
		t.states("a/b/c", thawed)
		t.runs(pid)
	}},
	{"a child's own freeze outlasts its parent's", func(t *trial) {
		t.create("a", "a/b")
		above, below := t.counter("a"), t.counter("a/b")
		t.freeze("a/b")
		t.states("a", thawed)
		t.states("a/b", frozen)
		t.runs(above)
		t.standsStill(below)
		t.freeze("a")
		t.states("a/b", frozenBoth)
		t.thaw("a")
		t.states("a", thawed)
		t.states("a/b", frozen)
		t.runs(above)
		t.standsStill(below)
		t.thaw("a/b")
		t.runs(below)
	}},
	{"a child cannot be thawed under a frozen parent", func(t *trial) {
		t.create("a", "a/b")
		pid := t.counter("a/b")
		t.freeze("a/b")
		t.freeze("a")
		t.thaw("a/b")
		t.states("a/b", inherited)
		t.standsStill(pid)
		t.thaw("a")
		t.states("a/b", thawed)
		t.runs(pid)
	}},
	{"siblings do not matter to each other", func(t *trial) {
		t.create("a", "b")
		pa, pb := t.counter("a"), t.counter("b")
		t.freeze("a")
		t.states("b", thawed)
		t.standsStill(pa)
		t.runs(pb)
	}},
	{"a group made under a frozen parent is born frozen", func(t *trial) {
		t.create("a")
		t.freeze("a")
		t.create("a/b")
		t.states("a/b", inherited)
		pid := t.counter("a/b")
		t.becomes("a", freezer.Frozen)
		t.becomes("a/b", freezer.Frozen)
		t.standsStill(pid)
		t.thaw("a")
		t.states("a/b", thawed)
		t.runs(pid)
	}},
	{"a group with a thawed self and a frozen parent can be asked to freeze", func(t *trial) {
		t.create("a", "a/b")
		t.freeze("a")
		t.freeze("a/b")
		t.states("a/b", frozenBoth)
	}},
	{"a frozen empty group can be removed and made anew", func(t *trial) {
		t.create("a")
		t.freeze("a")
		t.must("remove", t.Remove("a"))
		t.create("a")
		t.states("a", thawed)
		t.freeze("a")
		t.states("a", frozen)
	}},
	{"fifty groups freeze by their parent", func(t *trial) {
		t.create("a")
		for i := range 50 {
			t.create(fmt.Sprintf("a/%d", i))
			t.sleeper(fmt.Sprintf("a/%d", i))
		}
		t.freeze("a")
		for i := range 50 {
			t.states(fmt.Sprintf("a/%d", i), inherited)
		}
		t.thaw("a")
		t.states("a/49", thawed)
	}},
	{"many callers at once agree in the end", func(t *trial) {
		t.create("shared")
		pid := t.counter("shared")
		var all sync.WaitGroup
		freeze := func(group string) (err error) {
			for range 10 { // on a busy machine it takes more than one's patience
				if err = t.Freeze(group); !is(err, syscall.EBUSY) {
					break
				}
			}
			return err
		}
		for i := range 6 {
			own := fmt.Sprintf("own%d", i)
			mine := t.Sleeper()
			all.Go(func() {
				for range 10 {
					for _, err := range []error{
						t.Create(own), t.Add(own, mine), freeze(own), t.Thaw(own),
						t.Add("/", mine), t.Remove(own),
					} {
						if err != nil {
							t.Errorf("%s, which nobody else uses: %v", own, err)
						}
					}
					// Others thaw the shared one meanwhile.
					if err := t.Freeze("shared"); err != nil && !is(err, syscall.ECANCELED, syscall.EBUSY) {
						t.Errorf("freeze shared: %v", err)
					}
					if err := t.Thaw("shared"); err != nil {
						t.Errorf("thaw shared: %v", err)
					}
					if _, err := t.List(); err != nil {
						t.Errorf("list: %v", err)
					}
				}
			})
		}
		all.Wait()
		t.states("shared", thawed)
		t.runs(pid)
	}},
}
