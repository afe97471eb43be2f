package freezertest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestABlockerKeepsItsGroupFreezingUntilReleased(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			pid, release := freezertest.Blocker(t)
			g, err := f.Create("stuck")
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Add(pid); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			var late *freezer.FreezingError
			if err := g.Freeze(ctx); !errors.As(err, &late) {
				t.Fatalf("freezing a blocker: %v", err)
			}
			if len(late.Blockers) != 1 || late.Blockers[0].TID != pid {
				t.Errorf("blockers: %+v", late.Blockers)
			}
			freezertest.Eventually(t, "it waits for the server again", func() bool { // the freeze woke it
				b, err := g.Blockers()
				return err == nil && len(b) == 1 && b[0].WaitChannel == "request_wait_answer"
			})
			release()
			freezertest.Eventually(t, "FROZEN once the server answered", func() bool {
				s, err := g.State()
				return err == nil && s == freezer.Frozen
			})
		})
	}
}
