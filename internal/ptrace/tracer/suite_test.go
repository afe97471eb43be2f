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
		return system, freezertest.WithoutDebuggers(tb, w)
	})
}
