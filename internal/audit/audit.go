// Package audit tells the host's log who froze, thawed, killed or forced what,
// when and why: the journal where there is one, else syslog, else nobody.
//
// It costs some ten microseconds and never waits: a log that is full, dead or
// itself frozen loses the entry.
package audit

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Where the logs listen; tests have others.
var (
	journal = "/run/systemd/journal/socket"
	syslog  = "/dev/log"
)

// Priorities and the facility are those of syslog(3).
const (
	warning  = 4
	notice   = 5
	facility = 3 // daemon
)

// An Event is one thing that was done, or tried, to a group.
type Event struct {
	Op     string // freeze, thaw, kill …
	Group  string // its name
	Dir    string // the directory that it is
	Forced bool   // a warning or refusal was overridden
	Reason string // why, in the words of who asked; may be empty
	PID    int    // the process that asked; 0 is the caller …
	UID    int    // … and its user
	Err    error  // how it failed; nil when it did not
}

// Record sends the event to the log.
func Record(e Event) {
	if !exists(journal) && !exists(syslog) {
		return
	}
	if e.PID == 0 {
		e.PID, e.UID = os.Getpid(), os.Getuid()
	}
	who := asker(e.PID)
	text := e.message(who)
	priority := notice
	if e.Forced || e.Err != nil {
		priority = warning
	}
	if send(journal, e.fields(text, priority, who)) != nil {
		_ = send(syslog, line(text, priority))
	}
}

// A user is who asked for something, beyond a number.
type user struct {
	login   string // the user who logged in, whatever the process became since
	command string
	parent  string
}

func asker(pid int) user {
	var u user
	if text, err := kernfs.ReadFile(proc.Path(pid, "loginuid")); err == nil && string(text) != "4294967295" { // -1: nobody did
		u.login = string(text)
	}
	if s, err := proc.ReadStat(pid); err == nil {
		u.command = fmt.Sprintf("%s[%d]", s.Command, pid)
		if p, err := proc.ReadStat(s.Parent); err == nil {
			u.parent = fmt.Sprintf("%s[%d]", p.Command, s.Parent)
		}
	}
	return u
}

func (e *Event) message(u user) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Op, e.Group)
	if e.Forced {
		b.WriteString(" (forced)")
	}
	fmt.Fprintf(&b, " by uid %d", e.UID)
	if u.login != "" && u.login != strconv.Itoa(e.UID) {
		fmt.Fprintf(&b, " (login uid %s)", u.login)
	}
	fmt.Fprintf(&b, ", %s", u.command)
	if u.parent != "" {
		fmt.Fprintf(&b, " from %s", u.parent)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, ", because: %s", e.Reason)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": failed: %v", e.Err)
	}
	return b.String()
}

// fields writes the event in the journal's own protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): NAME=value lines, or, for a
// value with newlines, the name, its length in 64 bits and the value.
func (e *Event) fields(text string, priority int, u user) []byte {
	var b []byte
	add := func(name, value string) {
		switch {
		case value == "":
		case strings.Contains(value, "\n"):
			b = append(append(b, name...), '\n')
			b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
			b = append(append(b, value...), '\n')
		default:
			b = append(append(append(append(b, name...), '='), value...), '\n')
		}
	}
	add("MESSAGE", text)
	add("PRIORITY", strconv.Itoa(priority))
	add("SYSLOG_FACILITY", strconv.Itoa(facility))
	add("SYSLOG_IDENTIFIER", "freezer")
	add("FREEZER_OP", e.Op)
	add("FREEZER_GROUP", e.Group)
	add("FREEZER_DIR", e.Dir)
	add("FREEZER_REASON", e.Reason)
	add("FREEZER_PID", strconv.Itoa(e.PID))
	add("FREEZER_UID", strconv.Itoa(e.UID))
	add("FREEZER_LOGIN_UID", u.login)
	if e.Forced {
		add("FREEZER_FORCED", "1")
	}
	if e.Err != nil {
		add("FREEZER_ERROR", e.Err.Error())
	}
	return b
}

// line writes the classical form of syslog (RFC 3164).
func line(text string, priority int) []byte {
	text = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
	return fmt.Appendf(nil, "<%d>%s freezer[%d]: %s", facility*8+priority, time.Now().Format(time.Stamp), os.Getpid(), text)
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// send sends one datagram, or does not: it never waits.
func send(path string, datagram []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, datagram, unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: path})
}
