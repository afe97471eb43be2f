package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/checkpoint"
	"github.com/cgfreezer/freezer/internal/audit"
)

type checkCmd struct {
	Group string `arg:"" help:"A group of the tree, or a cgroup by its path."`
}

// Help is the part of the help that follows the flags.
func (*checkCmd) Help() string {
	return `It lists what an image would not carry, by process and by descriptor or mapping, and what a restore would have to be told. Nothing is touched. The exit status is 1 when the group cannot be checkpointed.`
}

func (c *checkCmd) Run(s *session) error {
	gang, err := s.groups(c.Group)
	if err != nil {
		return err
	}
	obstacles, err := checkpoint.Check(gang[0])
	if err != nil {
		return err
	}
	hinders := slices.ContainsFunc(obstacles, checkpoint.Obstacle.Hinders)
	if s.JSON {
		err = s.json(append([]checkpoint.Obstacle{}, obstacles...))
	} else {
		for _, o := range obstacles {
			fmt.Fprintln(&s.out, cell(o.String()))
		}
		if !hinders {
			fmt.Fprintf(&s.out, "%s can be checkpointed\n", printable(c.Group))
		}
	}
	if err == nil && hinders {
		err = &statusError{status: failed}
	}
	return err
}

type checkpointCmd struct {
	Group  string `arg:"" help:"A group of the tree, or a cgroup by its path."`
	Output string `short:"o" name:"output" placeholder:"IMAGE" help:"The file to write, or - for standard output."`
	Leave  string `enum:"running,frozen,killed" default:"running" placeholder:"running|frozen|killed" help:"What becomes of the group then."`

	Snapshot string `enum:"cow,stop" default:"cow" placeholder:"cow|stop" help:"How the memory is taken: from copies of the processes, so that they go on at once, or while they are stopped."`
	Compress string `enum:"zstd," default:"" placeholder:"zstd" help:"Compress the memory in the image."`

	Track   bool   `help:"Have the next image build on this one."`
	Base    string `placeholder:"IMAGE" help:"Build on this image, the last one that was written with --track or --base: leave out memory that was not written since."`
	Untrack bool   `help:"No longer note what is written since the last image."`

	Every time.Duration `placeholder:"10m" help:"Make an image again and again, each in a file IMAGE.TIME, until the group has ended or a signal comes."`
	Keep  int           `default:"3" placeholder:"N" help:"With --every, how many images to keep: older ones are removed when a new one is on the disk."`
}

// Help is the part of the help that follows the flags.
func (*checkpointCmd) Help() string {
	return `The image has all that is needed to start the group's processes again where they are now: see restore. They are stopped for some milliseconds, and go on while the image is written from copies of them, which share their memory. With --snapshot stop, or where copies could harm them (there is no room for them under a memory limit, say), and when they are not to go on anyway, they are stopped until it is written. What it would not carry is listed, and then there is no image; see check.

With --track it is noted from now on what the processes write, at the cost of some 20 us for the first write to a page, so that another image can build on this one. An image with a base is restored only while that is there: where it was, or in the same directory. It is whole nevertheless when the base is not the last image, and so are processes and mappings that have come since. What notes it ends with the job, or with --untrack.

The file is there as a whole or not at all, and only its owner can read it: it holds all that the processes had in memory. With --every each has the time (UTC) in its name, as in sim.image.20260131T120000Z; when one cannot be made, that is said, and the next one is tried.`
}

func (c *checkpointCmd) Run(s *session) error {
	gang, err := s.groups(c.Group)
	if err != nil {
		return err
	}
	if c.Every != 0 {
		return c.every(s, gang[0])
	}
	if c.Untrack {
		if c.Track || c.Base != "" {
			return &statusError{usage, errors.New("checkpoint: --untrack ends what --track and --base begin")}
		}
		if err := checkpoint.Untrack(gang[0]); err != nil || c.Output == "" {
			return err
		}
	}
	if c.Output == "" {
		return &statusError{usage, errors.New("checkpoint: say where the image is to be with -o")}
	}
	if c.Output == "-" && isTerminal(os.Stdout) {
		return &statusError{usage, errors.New("checkpoint: an image is nothing for a terminal: write it to a file with -o, or into a pipe")}
	}
	if checkpoint.Leave(c.Leave) == checkpoint.Running {
		if done, err := delegated(gang, checkpoint.NeedsMinder); done || err != nil {
			return err
		}
	}
	ready := s.notice()
	ctx := ready(0)
	var stats checkpoint.Stats
	tell, done := newBar("checkpoint", 0)
	if o := (checkpoint.SaveOptions{Tell: tell, Leave: checkpoint.Leave(c.Leave), Snapshot: checkpoint.Snapshot(c.Snapshot), Compress: c.Compress, Track: c.Track, Base: c.Base}); c.Output == "-" {
		stats, err = checkpoint.Save(ctx, gang[0], os.Stdout, o)
	} else {
		stats, err = checkpoint.SaveFile(ctx, gang[0], c.Output, o)
	}
	done()
	s.minded = append(s.minded, stats.Settled)
	record(gang, audit.Event{Op: "checkpoint", Reason: c.Output, Err: err})
	if err != nil {
		return fmt.Errorf("checkpoint %s: %w", c.Group, err)
	}
	if s.JSON && c.Output != "-" {
		return s.json(stats)
	}
	say(fmt.Sprintf("%s: %d processes, %d tasks, %s, stopped for %s", c.Group, stats.Processes, stats.Tasks, sized(stats.Bytes), stats.Stopped.Round(10*time.Microsecond)))
	if c.Base != "" && stats.Base == "" {
		say(fmt.Sprintf("%s: the image is whole: nobody has noted what was written since %s", c.Group, c.Base))
	}
	if stats.Untracked != "" {
		say(fmt.Sprintf("%s: no other image can build on this one: %s", c.Group, stats.Untracked))
	}
	if stats.Reason != "" {
		say(fmt.Sprintf("%s: it was stopped until all was written: %s", c.Group, stats.Reason))
	}
	return nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func sized(bytes int64) string { return fmt.Sprintf("%d KiB", (bytes+1023)/1024) }

// withImage opens an image, - for standard input.
func withImage(name string, use func(io.Reader) error) error {
	if name == "-" {
		return use(os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := use(f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

type restoreCmd struct {
	Image    string `arg:"" help:"An image that checkpoint wrote, or - for standard input."`
	Group    string `short:"g" placeholder:"GROUP" help:"The group to put the processes in; without, the one that they were in."`
	Frozen   bool   `help:"Leave them frozen, to be thawed later."`
	NewPIDs  bool   `name:"new-pidns" help:"Give them a PID namespace of their own, for where their PIDs are taken."`
	Files    string `enum:"check,rollback,ignore" default:"check" placeholder:"check|rollback|ignore" help:"What of the files that the job had open: they must be the same or longer, or are cut back to where they were, or taken as they are."`
	Stdin    string `placeholder:"FILE" help:"What to have in place of a standard input that came from outside: a file, or - for this command's."`
	Stdout   string `placeholder:"FILE" help:"The same for standard output; a file is appended to."`
	Stderr   string `placeholder:"FILE" help:"The same for standard error."`
	TCPClose bool   `name:"tcp-close" help:"TCP connections to others than the job have ended then: what they had received can still be read, and then they fail (ECONNRESET)."`
}

// Help is the part of the help that follows the flags.
func (*restoreCmd) Help() string {
	return `This command stands in for the job: it waits until the job ends, passes signals on to its first process, and ends as that does. With --frozen it returns at once.

The processes get the PIDs that they had, which needs root or CAP_CHECKPOINT_RESTORE. A terminal, pipe or socket that the job did not have to itself is not in the image: say what to have in its place. Who restores an image runs what is in it: it must be one that you trust.`
}

func (c *restoreCmd) Run(s *session) error {
	if !mayChoosePIDs() {
		return restoreAsUser()
	}
	o, err := c.options()
	if err != nil {
		return err
	}
	f, err := s.open()
	if err != nil {
		return err
	}
	got := make(chan os.Signal, 64)
	var job *checkpoint.Restored
	err = withImage(c.Image, func(r io.Reader) error {
		signal.Notify(got, passed...)
		var done func()
		o.Tell, done = newBar("restore", sizeOf(c.Image))
		job, err = checkpoint.Restore(context.Background(), r, f, o)
		done()
		return err
	})
	if job != nil {
		for _, cut := range job.Cuts {
			say(cut.String())
		}
	}
	if err != nil || c.Frozen {
		return err
	}
	go pass(got, job)
	status, by, err := job.Wait()
	if err != nil {
		return err
	}
	if by != 0 {
		dieBy(by)
	}
	os.Exit(status)
	return nil
}

// options are what the flags say.
func (c *restoreCmd) options() (checkpoint.RestoreOptions, error) {
	o := checkpoint.RestoreOptions{Group: c.Group, Frozen: c.Frozen, Files: checkpoint.FilePolicy(c.Files), NewPIDs: c.NewPIDs, TCPClose: c.TCPClose}
	own := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	for i, name := range []string{c.Stdin, c.Stdout, c.Stderr} {
		if name == "" {
			continue
		}
		if i == 0 && name == "-" && c.Image == "-" {
			return o, &statusError{usage, errors.New("restore: standard input cannot be the image and the job's")}
		}
		f, err := stream(name, own[i])
		if err != nil {
			return o, err
		}
		o.Streams[i] = f
	}
	return o, nil
}

// stream opens what a standard stream of the job is to be.
func stream(name string, own *os.File) (*os.File, error) {
	switch {
	case name == "-":
		return own, nil
	case own == os.Stdin:
		return os.Open(name)
	}
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
}

// passed are the signals that the job gets in place of this program.
var passed = []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH}

// pass passes signals on. Those that a key sends, the terminal has sent to all of
// its foreground group already.
func pass(got <-chan os.Signal, job *checkpoint.Restored) {
	for sig := range got {
		if group, err := unix.Getpgid(job.PID); fromKey(sig) && err == nil && group == unix.Getpgrp() {
			continue
		}
		_ = job.Signal(sig.(syscall.Signal))
	}
}

type inspectCmd struct {
	Image string `arg:"" help:"An image that checkpoint wrote, or - for standard input."`
}

// Help is the part of the help that follows the flags.
func (*inspectCmd) Help() string {
	return `It shows the processes of an image, what they have mapped, and their descriptors. It reads only the beginning; see verify.`
}

func (c *inspectCmd) Run(s *session) error {
	return withImage(c.Image, func(r io.Reader) error {
		job, err := checkpoint.ReadJob(r)
		if err != nil {
			return err
		}
		sum := job.Summarize()
		if s.JSON {
			return s.json(sum)
		}
		s.describe(sum)
		return nil
	})
}

// describe writes a summary as a person reads it.
func (s *session) describe(sum checkpoint.Summary) {
	fmt.Fprintf(&s.out, "group %s, taken %s on %s (Linux %s)\n", printable(sum.Group), sum.Taken.Local().Format(time.DateTime), printable(sum.Host), printable(sum.Kernel))
	if sum.Base != "" {
		fmt.Fprintf(&s.out, "it builds on %s\n", printable(sum.Base))
	}
	if len(sum.Needs) > 0 {
		fmt.Fprintf(&s.out, "to restore it, say %s\n", strings.Join(sum.Needs, " "))
	}
	depth := map[int]int{}
	for _, p := range sum.Processes {
		if p.Parent != 0 {
			depth[p.PID] = depth[p.Parent] + 1
		}
		indent := strings.Repeat("  ", min(depth[p.PID], 40))
		if p.Ended {
			fmt.Fprintf(&s.out, "%s%d %s: has ended\n", indent, p.PID, cell(p.Command))
			continue
		}
		fmt.Fprintf(&s.out, "%s%d %s: tasks %d, user %d, %s mapped\n", indent, p.PID, cell(p.Command), p.Tasks, p.User, sized(int64(p.Mapped)))
		for _, f := range p.Files {
			fmt.Fprintf(&s.out, "%s    %d: %s\n", indent, f.FD, cell(f.What))
		}
	}
}

type verifyCmd struct {
	Image string `arg:"" help:"An image that checkpoint wrote, or - for standard input."`
}

// Help is the part of the help that follows the flags.
func (*verifyCmd) Help() string {
	return `It reads the whole image and checks every part of it against its checksum.`
}

func (c *verifyCmd) Run(s *session) error {
	return withImage(c.Image, func(r io.Reader) error {
		tell, done := newBar("verify", sizeOf(c.Image))
		job, size, err := checkpoint.Verify(r, tell)
		done()
		if err != nil {
			return err
		}
		if s.JSON {
			return s.json(map[string]any{"processes": len(job.Processes), "memory": size})
		}
		fmt.Fprintf(&s.out, "whole: %d processes, %s of memory\n", len(job.Processes), sized(size))
		return nil
	})
}
