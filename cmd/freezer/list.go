package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

type lsCmd struct{}

// Help is the part of the help that follows the flags.
func (*lsCmd) Help() string {
	return `TASKS counts the tasks in the group itself, AGE is the time since it was made.`
}

func (c *lsCmd) Run(s *session) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	list, err := f.List()
	if err != nil {
		return err
	}
	if s.JSON {
		return s.json(append([]freezer.Info{}, list...))
	}
	if len(list) == 0 {
		say("there are no groups; to make one: freezer run -g NAME PROGRAM, or freezer add NAME PID")
		return nil
	}
	t := s.table("GROUP\tSTATE\tTASKS\tAGE")
	for _, i := range list {
		indent := strings.Repeat("  ", strings.Count(i.Group, "/"))
		name := i.Group[strings.LastIndexByte(i.Group, '/')+1:]
		fmt.Fprintf(t, "%s%s\t%s\t%d\t%s\n", indent, cell(name), stateWord(i.States), i.Tasks, age(i.Created))
	}
	return t.Flush()
}

// stateWord is the effective state, with where it comes from when that is not
// the group itself.
func stateWord(s freezer.States) string {
	if s.Self == freezer.Thawed && s.Parent == freezer.Freezing {
		return s.Effective.String() + " (from above)"
	}
	return s.Effective.String()
}

func age(made *time.Time) string {
	if made == nil {
		return "-"
	}
	d := time.Since(*made)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

type psCmd struct {
	Group string `arg:"" help:"A group of the tree, or a cgroup by its path."`
}

// Help is the part of the help that follows the flags.
func (*psCmd) Help() string {
	return `The processes of the groups below are listed, too. S is the state that ps and proc(5) give: a frozen process shows as S or D. PENDING are the signals that wait for it: they act at thaw.`
}

func (c *psCmd) Run(s *session) error {
	gang, err := s.groups(c.Group)
	if err != nil {
		return err
	}
	list, err := gang[0].Members()
	if err != nil {
		return err
	}
	if s.JSON {
		return s.json(append([]freezer.Process{}, list...))
	}
	t := s.table("PID\tPPID\tUID\tTASKS\tS\tPENDING\tGROUP\tCOMMAND")
	for _, p := range list {
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", p.PID, p.Parent, p.User, p.Threads, p.State, pending(p), cell(p.Group), cell(p.Command))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	s.fit()
	return nil
}

// pending lists the signals that wait for a process.
func pending(p freezer.Process) string {
	if len(p.Pending) == 0 {
		return "-"
	}
	return strings.ReplaceAll(strings.Join(p.Pending, ","), "SIG", "")
}

// table begins a table on standard output.
func (s *session) table(head string) *tabwriter.Writer {
	t := tabwriter.NewWriter(&s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, head)
	return t
}

// fit cuts lines to the width of the terminal, if that is where they go.
func (s *session) fit() {
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return
	}
	text := s.out.String()
	s.out.Reset()
	for line := range strings.Lines(text) {
		runes := []rune(strings.TrimSuffix(line, "\n"))
		s.out.WriteString(string(runes[:min(len(runes), int(size.Col))]) + "\n")
	}
}
