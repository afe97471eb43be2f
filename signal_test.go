package freezer_test

import (
	"bufio"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestSignalsToAFrozenProcessAreListed(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		// It handles them: those that kill act at once.
		shell := exec.Command("sh", "-c", "trap : USR1 USR2; echo ready; sleep 1000 & wait")
		out, err := shell.StdoutPipe()
		must(t, err)
		freezertest.Run(t, shell)
		_, err = bufio.NewReader(out).ReadString('\n')
		must(t, err)
		pid := shell.Process.Pid
		must(t, g.AddTree(pid))
		must(t, g.Freeze(t.Context()))
		must(t, unix.Kill(pid, unix.SIGUSR2))
		must(t, unix.Kill(pid, unix.SIGUSR1))
		p, ok := freezer.Describe(pid)
		if want := []string{"SIGUSR1", "SIGUSR2"}; !ok || !slices.Equal(p.Pending, want) {
			t.Fatalf("pending %q, want %q", p.Pending, want)
		}
	})
}
