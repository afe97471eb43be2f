package freezer_test

import (
	"errors"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// The default hold is put on and taken off without a lock as long as there is
// no other. The two handles stand for two processes.
func TestHoldsThatMeetAreNotLost(t *testing.T) {
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			plain, err := f.Create("g")
			must(t, err)
			named, err := f.Group("g")
			must(t, err)
			for range 300 {
				first := make(chan error)
				go func() { first <- plain.Freeze(t.Context()) }()
				must(t, named.Freeze(t.Context(), freezer.By("x")))
				must(t, <-first)
				wantOwners(t, plain, "default x")
				must(t, plain.Thaw(freezer.AllHolds()))

				must(t, plain.Freeze(t.Context()))
				go func() { first <- plain.Thaw() }()
				if err := named.Freeze(t.Context(), freezer.By("x")); err != nil && !errors.Is(err, freezer.ErrThawed) {
					t.Fatal(err)
				}
				if err := <-first; err != nil {
					wantHeld(t, err)
				}
				wantOwners(t, plain, "x")
				wantState(t, plain, freezer.Frozen)
				must(t, plain.Thaw(freezer.AllHolds()))
			}
		})
	}
}
