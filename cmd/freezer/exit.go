package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/cgfreezer/freezer"
)

// The exit statuses, as the manual page has them.
const (
	failed      = 1
	usage       = 2
	unavailable = 69 // EX_UNAVAILABLE of sysexits.h
	tempFail    = 75 // EX_TEMPFAIL
	notRun      = 126
	notFound    = 127
)

var statuses = []struct {
	code    int
	meaning string
}{
	{0, "Done."},
	{failed, "Failed."},
	{usage, "The command line was wrong."},
	{unavailable, "There is no way to freeze on this host."},
	{tempFail, "A group is still FREEZING at the deadline."},
	{notRun, "run: the program cannot be executed."},
	{notFound, "run: there is no such program."},
}

// A statusError is an error with an exit status of its own.
type statusError struct {
	status int
	error
}

// Error is what the error says; nothing when that was said already.
func (e *statusError) Error() string {
	if e.error == nil {
		return ""
	}
	return e.error.Error()
}

func (e *statusError) Unwrap() error { return e.error }

// fail says what went wrong and what to do next, and returns the exit status.
func fail(err error) int {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		status := 0
		for _, err := range joined.Unwrap() {
			status = max(status, fail(err))
		}
		return status
	}
	var own *statusError
	if errors.As(err, &own) && own.error == nil { // all is said
		return own.status
	}
	text := err.Error()
	var late *freezer.FreezingError
	if errors.As(err, &late) {
		text = explainLate(err, late)
	} else if advice := advise(err); advice != "" {
		text += "\n" + advice
	}
	fmt.Fprintln(os.Stderr, "freezer:", printable(text))
	return statusOf(err)
}

func statusOf(err error) int {
	var own *statusError
	switch {
	case errors.As(err, &own):
		return own.status
	case errors.Is(err, freezer.ErrNoBackend):
		return unavailable
	case errors.Is(err, freezer.ErrFreezing):
		return tempFail
	}
	return failed
}

// misuse says what is wrong with the command line.
func misuse(err error) int {
	help := "freezer --help"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			help = "freezer " + node.Name + " --help"
		}
	}
	fmt.Fprintf(os.Stderr, "freezer: %s\nSee %s.\n", printable(err.Error()), help)
	return usage
}

// advise says what to do about an error, in terms of this program; empty when
// the error says so itself.
func advise(err error) string {
	name := "GROUP"
	var op *freezer.OpError
	if errors.As(err, &op) && op.Group != "" {
		name = quote(op.Group)
	}
	switch {
	case errors.Is(err, freezer.ErrNotExist):
		return "See what there is with: freezer ls"
	case errors.Is(err, freezer.ErrHeld):
		return "See them with: freezer holds " + name + "\nThaw it all the same with: freezer thaw --all " + name
	case errors.Is(err, freezer.ErrNotEmpty) && op != nil && op.Op == "remove":
		return "See what is in it with: freezer ps " + name + "\nKill and remove it all with: freezer rm --kill " + name
	case errors.Is(err, freezer.ErrNoBackend):
		return "See what would give one with: freezer doctor"
	case errors.Is(err, freezer.ErrNoTask):
		return "It has ended, or never was: see what runs with ps -e"
	case errors.Is(err, syscall.EROFS):
		return "The cgroup file system is mounted read-only: remount it read-write, or see freezer doctor"
	}
	return ""
}

// explainLate is a FreezingError at full length.
func explainLate(err error, late *freezer.FreezingError) string {
	name := "the group"
	var op *freezer.OpError
	if errors.As(err, &op) {
		name = op.Group
	}
	var b strings.Builder
	switch {
	case late.Thawed && errors.Is(late.Cause, context.Canceled):
		fmt.Fprintf(&b, "freeze %s: interrupted", name)
	case late.Thawed:
		fmt.Fprintf(&b, "freeze %s: it was not frozen in time", name)
	default:
		fmt.Fprintf(&b, "%s is still FREEZING", name)
	}
	writeBlockers(&b, late.Blockers)
	if late.Thawed {
		b.WriteString("\nIt was put back as it was.")
		return b.String()
	}
	fmt.Fprintf(&b, "\nIt stays so until it is thawed (freezer thaw %s), frozen again, or these tasks are gone.", quote(name))
	return b.String()
}

// writeBlockers writes what keeps a group from being FROZEN, after a name and
// before a new line.
func writeBlockers(b *strings.Builder, blockers []freezer.Blocker) {
	switch len(blockers) {
	case 0:
		b.WriteString(": its last task is about to freeze")
	case 1:
		b.WriteString(": 1 task is not frozen")
	default:
		fmt.Fprintf(b, ": %d tasks are not frozen", len(blockers))
	}
	for _, x := range blockers {
		fmt.Fprintf(b, "\n  task %d (%s) in %s %s\n    what helps: %s", x.TID, x.Command, x.Group, x.Reason, x.Release)
	}
}
