package freezer

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Warnings looks for no longer than this, and says no more than so much.
const (
	warnTime    = 100 * time.Millisecond
	maxWarnings = 16
)

// Warnings says, a sentence each, which processes in the group and below others
// watch over or depend on, so that a freeze is noticed; 16 at most. It is a look
// before a freeze, not a refusal, and sees what the caller may see.
func (g *Group) Warnings() (all []string) {
	until := time.Now().Add(warnTime)
	groups, _ := g.Walk()
	for _, sub := range groups {
		pids, _ := sub.Processes()
		for _, pid := range pids {
			if len(all) == maxWarnings || time.Now().After(until) {
				return all
			}
			if s, err := proc.ReadStat(pid); err == nil {
				if why := missed(s, until); why != "" {
					all = append(all, fmt.Sprintf("process %d (%s) %s", pid, s.Command, why))
				}
			}
		}
	}
	return all
}

// services are programs that others wait for, by the beginning of their names.
var services = []struct{ command, why string }{
	{"systemd-journal", "is the journal: whoever logs waits while it is frozen"},
	{"dbus-daemon", "is a message bus: whoever calls over it waits while it is frozen"},
	{"dbus-broker", "is a message bus: whoever calls over it waits while it is frozen"},
	{"sshd", "serves ssh: logins hang while it is frozen"},
}

// missed says who will notice that a process stands still, empty when nobody is
// known to.
func missed(s proc.Stat, until time.Time) string {
	for _, known := range services {
		if strings.HasPrefix(s.Command, known.command) {
			return known.why
		}
	}
	if !hasManager(s) {
		return ""
	}
	if every := watchdog(s.ID, environ(s.ID, until)); every > 0 {
		return fmt.Sprintf("must report to its service manager every %v (WatchdogSec), which ends it otherwise", every)
	}
	return ""
}

// hasManager says whether systemd, the system's or a user's, started the process
// itself, or got it from one that ended.
func hasManager(s proc.Stat) bool {
	parent, err := proc.ReadStat(s.Parent)
	return err == nil && parent.Command == "systemd"
}

// environ reads a process's environment, unless that takes too long: it can be
// as stuck in the kernel as the process.
func environ(pid int, until time.Time) string {
	text := make(chan string, 1)
	go func() {
		t, _ := kernfs.ReadFile(proc.Path(pid, "environ"))
		text <- string(t)
	}()
	select {
	case t := <-text:
		return t
	case <-time.After(time.Until(until)):
		return ""
	}
}

// watchdog is how often the process must report, as sd_watchdog_enabled(3)
// reads its environment; zero when it need not.
func watchdog(pid int, environ string) time.Duration {
	var every time.Duration
	for entry := range strings.SplitSeq(environ, "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case name == "WATCHDOG_USEC":
			every = time.Duration(n) * time.Microsecond
		case name == "WATCHDOG_PID" && n != int64(pid):
			return 0 // inherited: it is another's duty
		}
	}
	return every
}
