package freezer_test

import (
	"testing"

	"github.com/cgfreezer/freezer/freezertest"
)

func TestMain(m *testing.M) {
	skipExample()
	freezertest.Main(m)
}
