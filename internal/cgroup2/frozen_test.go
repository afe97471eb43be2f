package cgroup2

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
		{'S', "get_signal", true},
		{'S', "do_freezer_trap", true},
		{'D', "kernel_clone", true}, // in vfork
		{'Z', "", true},
		{'T', "do_signal_stop", true},
		{'t', "ptrace_stop", true},
		{'S', "", true}, // not shown to us
		{'D', "", false},
		{'R', "", false},
		{'D', "request_wait_answer", false},
		{'S', "hrtimer_nanosleep", false}, // about to be woken
		{'D', "percpu_rwsem_wait", false},
	} {
		if got := (*Hierarchy)(nil).FrozenTask(proc.Stat{State: test.state}, test.wchan); got != test.want {
			t.Errorf("%c in %q: %v", test.state, test.wchan, got)
		}
	}
}
