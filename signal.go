package freezer

import (
	"fmt"
	"math/bits"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// pendingSignals lists the signals that wait for a process, or for one of its
// threads: on a frozen one they act when it is thawed.
func pendingSignals(pid int) (names []string) {
	var set uint64
	for _, tid := range proc.Threads(pid) {
		text, err := kernfs.ReadFile(proc.Path(tid, "status"))
		if err != nil {
			continue
		}
		for _, field := range []string{"SigPnd", "ShdPnd"} { // the thread's, the process's
			mask, _ := strconv.ParseUint(proc.StatusField(text, field), 16, 64)
			set |= mask
		}
	}
	for ; set != 0; set &= set - 1 {
		names = append(names, signalName(bits.TrailingZeros64(set)+1))
	}
	return names
}

func signalName(number int) string {
	if name := unix.SignalName(unix.Signal(number)); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", number)
}
