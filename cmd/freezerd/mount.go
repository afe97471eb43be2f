package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/internal/kernfs"
)

type mountCmd struct {
	Dir     string   `arg:"" help:"The directory at which they are shown."`
	Options []string `short:"o" sep:"," placeholder:"OPTION,…" help:"Mount options, see below."`
	Detach  bool     `help:"Return when the mount works; the server goes on in the background."`
}

// Help is what help says besides.
func (*mountCmd) Help() string {
	return `The mount looks as the kernel's cgroup1 freezer does: directories are groups, with the files tasks, freezer.state and so on.

Mount options are
grace=DURATION (how long a write of FROZEN waits before it fails with EBUSY; 200ms),
nowait (such a write succeeds at once),
threads (groups that are made can hold single threads),
root=DIR and backend=NAME (as the flags),
ro (nothing can be changed through this mount),
allow_other (others may use the mount, too; that of root they always may),
and those that mount(8) has for all file systems.`
}

// Run serves the mount until it is unmounted.
func (c *mountCmd) Run(g *globals) error {
	m := mounter{globals: *g}
	for _, option := range c.Options {
		if err := m.option(option); err != nil {
			return usageError{err}
		}
	}
	if c.Detach {
		return m.detach(c.Dir, c.Options)
	}
	return m.serve(c.Dir)
}

type umountCmd struct {
	Dir  string `arg:"" help:"Where the groups are shown."`
	Lazy bool   `short:"l" help:"Also when somebody uses it: it goes with the last user."`
}

// Run takes the mount away.
func (c *umountCmd) Run() error { return freezerfs.Unmount(c.Dir, c.Lazy) }

// A mounter knows all that a mount needs.
type mounter struct {
	globals
	threads bool
	options freezerfs.Options
}

// flags are options for mount(2).
var flags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "noexec": unix.MS_NOEXEC, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME,
}

// generic are options that mount(8) has for all file systems, and that mean
// nothing here or are always so. The last one chose the kernel's own freezer.
var generic = strings.Fields("rw exec suid nosuid dev nodev atime diratime relatime norelatime strictatime lazytime nolazytime " +
	"sync async dirsync auto noauto user users nouser owner group _netdev defaults nofail silent loud freezer")

// option takes one mount option.
func (m *mounter) option(option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch {
	case option == "nowait":
		m.options.NoWait = true
	case option == "threads":
		m.threads = true
	case option == "allow_other":
		m.options.AllowOther = true
	case name == "grace":
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 || d > time.Hour {
			return fmt.Errorf("mount option %q: not a time such as 200ms or 2s", option)
		}
		m.options.Grace = d
	case name == "root" && value != "":
		m.Root = value
	case name == "backend" && slices.Contains([]string{freezer.Cgroup2, freezer.Cgroup1, freezer.Ptrace}, value):
		m.Backend = value
	case name == "fsname" && value != "":
		m.options.Source = value
	case flags[option] != 0:
		m.options.Flags |= flags[option]
	case option == "" || strings.HasPrefix(option, "x-") || name == "comment" || slices.Contains(generic, option):
	default:
		return fmt.Errorf("mount option %q is not known", option)
	}
	return nil
}

// serve shows the tree at dir until it is unmounted, or a signal ends that.
func (m *mounter) serve(dir string) error {
	// By this name others know that they must not freeze us.
	_ = kernfs.WriteFile("/proc/self/comm", "freezerd")
	stop := make(chan os.Signal, 1) // from now on, lest a dead mount be left behind
	signal.Notify(stop, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	var opts []freezer.Option
	if m.threads {
		opts = append(opts, freezer.WithThreads())
	}
	f, err := m.open(opts...)
	if err != nil {
		return err
	}
	server, err := freezerfs.Mount(f, dir, m.options)
	if err != nil {
		return err
	}
	background()
	gone := make(chan struct{})
	go func() {
		server.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-stop:
	}
	err = server.Unmount()
	if errors.Is(err, unix.EBUSY) {
		fmt.Fprintf(os.Stderr, "freezerd: %v: they lose it now\n", err)
		err = server.Detach()
	}
	return err
}
