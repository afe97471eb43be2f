package cgroup1

import (
	"testing"

	"github.com/cgfreezer/freezer/internal/proc"
)

func TestFrozenTasksAreKnownByTheirLooks(t *testing.T) {
	for _, test := range []struct {
		state byte
		wchan string
		want  bool
	}{
		{'D', "__refrigerator", true},
		{'D', "hrtimer_nanosleep", true}, // frozen in place
		{'Z', "", true},
		{'T', "do_signal_stop", true},
		{'t', "ptrace_stop", true},
		{'S', "hrtimer_nanosleep", false}, // about to be woken
		{'D', "request_wait_answer", false},
		{'D', "", false},
		{'R', "", false},
	} {
		if got := (*Hierarchy)(nil).FrozenTask(proc.Stat{State: test.state}, test.wchan); got != test.want {
			t.Errorf("%c in %q: %v", test.state, test.wchan, got)
		}
	}
}
