package tracer_test

import (
	"path/filepath"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestMain(m *testing.M) { freezertest.Main(m) }

func TestSuite(t *testing.T) {
	t.Setenv("FREEZER_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	freezertest.Suite(t, func(tb testing.TB) (freezertest.System, freezertest.World) {
		system, w := freezertest.Kernel(freezer.Ptrace)(tb)
		return system, world{w, w.(freezertest.ThreadWorld), tb}
	})
}

// A world has no debuggers: tasks that are traced already are blockers here.
type world struct {
	freezertest.World
	threads
	tb testing.TB
}

type threads = freezertest.ThreadWorld

func (w world) Trace(int) func() {
	w.tb.Skip("this backend cannot hold what is traced already")
	return nil
}
