package freezertest_test

import (
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestSuite(t *testing.T) {
	for name, target := range map[string]freezertest.Target{
		"model":            freezertest.Pure,
		"cgroup2":          freezertest.Kernel(freezer.Cgroup2),
		"cgroup2-threaded": freezertest.Kernel(freezer.Cgroup2, freezer.WithThreads()),
		"cgroup1":          freezertest.Kernel(freezer.Cgroup1),
	} {
		t.Run(name, func(t *testing.T) { freezertest.Suite(t, target) })
	}
}
