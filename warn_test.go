package freezer_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// copyOf puts a copy of a program at a path of another name.
func copyOf(t *testing.T, program, name string) string {
	t.Helper()
	from, err := exec.LookPath(program)
	if err != nil {
		t.Skip(err)
	}
	text, err := os.ReadFile(from)
	must(t, err)
	to := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(to, text, 0o755))
	return to
}

func TestWarningsNameWhomOthersWatchOrNeed(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Add(freezertest.Sleeper(t)))
		if w := g.Warnings(); len(w) > 0 {
			t.Errorf("of a process that nobody watches: %q", w)
		}
		journal := freezertest.Start(t, copyOf(t, "sleep", "systemd-journald"), "1000").Process.Pid
		must(t, g.Add(journal))
		if w := g.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], "process "+strconv.Itoa(journal)+" (systemd-journal) is the journal") {
			t.Errorf("of the journal: %q", w)
		}
	})
}

func TestWarningsNameWhoMustReportToSystemd(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		// The first child has a watchdog, the second has inherited one.
		cmd := exec.Command(copyOf(t, "sh", "systemd"), "-c",
			`WATCHDOG_USEC=3000000 sleep 1000 & echo $!; WATCHDOG_USEC=3000000 WATCHDOG_PID=1 sleep 1000 & echo $!; wait`)
		out, err := cmd.StdoutPipe()
		must(t, err)
		freezertest.Run(t, cmd)
		var pids []string
		for lines := bufio.NewScanner(out); len(pids) < 2 && lines.Scan(); {
			pids = append(pids, lines.Text())
		}
		for _, p := range pids {
			pid, err := strconv.Atoi(p)
			must(t, err)
			proc, err := os.FindProcess(pid)
			must(t, err)
			t.Cleanup(func() { _ = proc.Kill() })
			must(t, g.Add(pid))
		}
		want := "process " + pids[0] + " (sleep) must report to its service manager every 3s (WatchdogSec), which ends it otherwise"
		freezertest.Eventually(t, want, func() bool { // once it has executed sleep
			w := g.Warnings()
			return len(w) == 1 && w[0] == want
		})
	})
}
