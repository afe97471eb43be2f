package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/checkpoint"
	"github.com/cgfreezer/freezer/internal/audit"
)

// What a job is to be like on the other host, in the words of restore.
type receiveFlags struct {
	Target  string `name:"group" short:"g" placeholder:"GROUP" help:"The group to put the processes in there; without, the one that they are in."`
	NewPIDs bool   `name:"new-pidns" help:"Give them a PID namespace of their own, for where their PIDs are taken."`
	Files   string `enum:"check,rollback,ignore" default:"check" placeholder:"check|rollback|ignore" help:"What of the files that the job has open, as for restore."`
	Stdin   string `placeholder:"FILE" help:"What to have there in place of a standard input that comes from outside."`
	Stdout  string `placeholder:"FILE" help:"The same for standard output; a file is appended to."`
	Stderr  string `placeholder:"FILE" help:"The same for standard error."`
}

// words are the flags as they were given.
func (f *receiveFlags) words() (words []string) {
	for _, flag := range []struct{ name, value string }{
		{"group", f.Target}, {"files", f.Files}, {"stdin", f.Stdin}, {"stdout", f.Stdout}, {"stderr", f.Stderr},
	} {
		if flag.value != "" {
			words = append(words, "--"+flag.name+"="+flag.value)
		}
	}
	if f.NewPIDs {
		words = append(words, "--new-pidns")
	}
	return words
}

type migrateCmd struct {
	Group string `arg:"" help:"A group of the tree, or a cgroup by its path."`
	Host  string `arg:"" help:"[USER@]HOST, as for ssh."`
	receiveFlags
	Shell  string `short:"e" name:"rsh" default:"ssh" placeholder:"COMMAND" help:"What to reach the host with."`
	Remote string `default:"freezer" placeholder:"PROGRAM" help:"This program, as it is found there."`
}

// Help is the part of the help that follows the flags.
func (*migrateCmd) Help() string {
	return `The processes are sent while they run, and what they write meanwhile again, until little is left; then they are stopped, the rest is sent, and they run there and are killed here. When it fails they go on here. The files that they have open must be there, too, under the same names.

When the other host is lost in the moment in which it was about to run them, nobody here can know whether it does: then the group is frozen here.`
}

func (c *migrateCmd) Run(s *session) error {
	gang, err := s.groups(c.Group)
	if err != nil {
		return err
	}
	words := strings.Fields(c.Shell)
	if len(words) == 0 || strings.HasPrefix(c.Host, "-") {
		return &statusError{usage, errors.New("migrate: say what to reach which host with")}
	}
	if c.Stdin == "-" || c.Stdout == "-" || c.Stderr == "-" {
		return &statusError{usage, errors.New("migrate: this command ends when the job runs there: say a file in place of -")}
	}
	var remote []string
	for _, w := range append([]string{c.Remote, "receive"}, c.words()...) {
		remote = append(remote, quote(w))
	}
	ssh := exec.Command(words[0], append(words[1:], c.Host, strings.Join(remote, " "))...)
	ssh.Stderr = os.Stderr
	to, err := ssh.StdinPipe()
	if err != nil {
		return err
	}
	from, err := ssh.StdoutPipe()
	if err != nil {
		return err
	}
	if err := ssh.Start(); err != nil {
		return err
	}
	ready := s.notice()
	moved, err := checkpoint.Send(ready(0), gang[0], to, from)
	to.Close()
	if werr := ssh.Wait(); err == nil && werr != nil {
		say(fmt.Sprintf("%s: it runs on %s, but %s: %v", c.Group, c.Host, words[0], werr))
	}
	record(gang, audit.Event{Op: "migrate", Reason: c.Host, Err: err})
	if err != nil {
		return fmt.Errorf("migrate %s: %w", c.Group, err)
	}
	if s.JSON {
		return s.json(moved)
	}
	say(fmt.Sprintf("%s: runs on %s as %d: sent %s in %d rounds, stopped for %s", c.Group, c.Host, moved.PID, sized(moved.Bytes), moved.Rounds, moved.Stopped.Round(10*time.Microsecond)))
	return nil
}

// receiveCmd is the other side of migrate. It stays until the job has ended, as its
// parent.
type receiveCmd struct{ receiveFlags }

func (c *receiveCmd) Run(s *session) error {
	_, _ = unix.Setsid() // the job is not to hear of the connection's end
	as := restoreCmd{Image: "-", Group: c.Target, NewPIDs: c.NewPIDs, Files: c.Files, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr}
	o, err := as.options()
	var f *freezer.Freezer
	if err == nil {
		f, err = s.open()
	}
	if err != nil {
		fmt.Printf("failed %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return err
	}
	job, err := checkpoint.Receive(context.Background(), os.Stdin, os.Stdout, f, o)
	if job == nil {
		return err
	}
	leaveTerminal()
	_, _, err = job.Wait()
	return err
}
