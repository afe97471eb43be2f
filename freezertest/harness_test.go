package freezertest_test

import (
	"testing"

	"github.com/cgfreezer/freezer/freezertest"
)

func TestMain(m *testing.M) { freezertest.Main(m) }

func TestTreeOpensOnEachBackend(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			g, err := f.Create("a")
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Add(freezertest.Sleeper(t)); err != nil {
				t.Fatal(err)
			}
			if err := g.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
