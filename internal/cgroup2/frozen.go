package cgroup2

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Frozen says whether each task of the group and its descendants is frozen. An
// empty group is frozen at once, as soon as it or an ancestor is freezing.
//
// The kernel's "frozen 1" means that only for a group without children. That of
// a group with children becomes 1 when its own tasks are frozen, whatever those
// below do, and also when all below is frozen, whatever its own tasks do
// (cgroup_update_frozen and cgroup_propagate_frozen; 6.18). It is never 0 when
// all are frozen, but for a moment. So where there are children one must look.
func (c *Cgroup) Frozen() (bool, error) {
	var buf [128]byte
	text, err := c.events.ReadInto(buf[:])
	if err != nil || !saysFrozen(text) {
		return false, err
	}
	var st unix.Stat_t
	err = c.files.Use(func(fd int) error { return unix.Fstat(fd, &st) })
	if err != nil || childless(&st) {
		return err == nil, err
	}
	return frozenTree(unix.AT_FDCWD, c.dir)
}

func saysFrozen(events []byte) bool { return bytes.Contains(events, []byte("frozen 1")) }

// childless reads the number of links of a group's directory.
func childless(st *unix.Stat_t) bool { return st.Nlink <= 2 }

// frozenTree looks at each group without children, and at each task of the
// others. The path of dir begins at the directory of descriptor at.
func frozenTree(at int, dir string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(at, dir, &st, 0); err != nil {
		return false, err
	}
	if childless(&st) {
		events, err := kernfs.ReadFileAt(at, dir+"/cgroup.events")
		return saysFrozen(events), err
	}
	fd, err := unix.Openat(at, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	open := os.NewFile(uintptr(fd), dir)
	defer open.Close()
	threads, err := kernfs.ReadFileAt(fd, "cgroup.threads")
	if err != nil {
		return false, err
	}
	for _, tid := range kernfs.ParseIDs(threads) {
		if s, err := proc.ReadStat(tid); err == nil && !frozenTask(s, proc.WaitChannel(tid)) {
			return false, nil
		}
	}
	entries, err := open.ReadDir(-1)
	if err != nil {
		return false, errno(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		frozen, err := frozenTree(fd, e.Name())
		if err == unix.ENOENT || err == unix.ENODEV { // it vanished meanwhile
			continue
		}
		if err != nil || !frozen {
			return false, err
		}
	}
	return true, nil
}

// errno takes the path off an error of the os package.
func errno(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// FrozenTask says whether a task of a freezing group is frozen, from what /proc
// says of it: wchan is empty where that is not shown to us, and then whoever
// sleeps interruptibly counts as frozen, which is what a freeze makes him soon.
func (*Hierarchy) FrozenTask(s proc.Stat, wchan string) bool { return frozenTask(s, wchan) }

func frozenTask(s proc.Stat, wchan string) bool {
	switch s.State {
	case 'Z', 'X', 'T', 't': // the dead count as frozen, and so do the stopped
		return true
	}
	switch wchan {
	case "get_signal", "do_freezer_trap":
		return true
	case "kernel_clone": // a parent in vfork counts as frozen
		return true
	case "":
		return s.State == 'S'
	}
	return false
}
