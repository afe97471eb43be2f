package invisible_test

import (
	"testing"

	"github.com/cgfreezer/freezer/internal/invisible"
)

func TestAStoredSessionThatIsDamagedIsRefused(t *testing.T) {
	whole, _ := invisible.Noted().MarshalBinary()
	for _, b := range [][]byte{nil, {}, {0}, {99, 1}, whole[:len(whole)-1], whole[:len(whole)-2]} {
		if err := new(invisible.Session).UnmarshalBinary(b); err == nil {
			t.Errorf("%v was accepted", b)
		}
	}
}

func FuzzParseCall(f *testing.F) {
	f.Add("running\n")
	f.Add("-1 0x7ffd 0x7f00\n")
	f.Add("232 0x4 0x7ffd5c 0x1 0xffffffff 0x0 0x8 0x7ffd5c3f3ab8 0x7f0dfdd3a6b6\n")
	f.Fuzz(func(t *testing.T, text string) {
		if nr, ok := invisible.ParseCall(text); ok && nr < 0 {
			t.Error(nr)
		}
	})
}
