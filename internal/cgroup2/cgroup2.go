// Package cgroup2 freezes groups of the kernel's unified hierarchy; see
// cgroup.freeze in the kernel's Documentation/admin-guide/cgroup-v2.rst.
package cgroup2

import (
	"bytes"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/hierarchy"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A Hierarchy is the mounted unified hierarchy.
type Hierarchy struct{ hierarchy.Tree }

// Find returns the unified hierarchy; ok is false when none is mounted.
func Find(mounts []mountinfo.Mount) (h *Hierarchy, ok bool) {
	t, ok := hierarchy.Find(mounts, unix.CGROUP2_SUPER_MAGIC,
		func(m mountinfo.Mount) bool { return m.Type == "cgroup2" },
		func(c proc.Cgroup) bool { return c.V2 })
	return &Hierarchy{t}, ok
}

// Procs lists the processes of one group, without its descendants, in no
// particular order.
func (*Hierarchy) Procs(dir string) ([]int, error) {
	ids, err := hierarchy.IDs(dir, "cgroup.procs")
	if err == unix.EOPNOTSUPP { // a threaded group: only its threads can be listed
		return processes(dir)
	}
	return ids, err
}

func processes(dir string) ([]int, error) {
	tids, err := hierarchy.IDs(dir, "cgroup.threads")
	seen := map[int]bool{}
	var pids []int
	for _, tid := range tids {
		if pid := proc.Process(tid); pid != 0 && !seen[pid] {
			seen[pid] = true
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// Threads lists the tasks of one group, without its descendants.
func (*Hierarchy) Threads(dir string) ([]int, error) { return hierarchy.IDs(dir, "cgroup.threads") }

// MoveProcess moves a process with all its threads into the group.
func (*Hierarchy) MoveProcess(dir string, pid int) error {
	return kernfs.WriteFile(dir+"/cgroup.procs", strconv.Itoa(pid))
}

// MoveThread moves one thread within a threaded tree. It is EOPNOTSUPP where
// the group is no part of one, or the thread's process is outside of it.
func (*Hierarchy) MoveThread(dir string, tid int) error {
	return kernfs.WriteFile(dir+"/cgroup.threads", strconv.Itoa(tid))
}

// Threaded says whether the group is the root or a member of a threaded tree.
func (*Hierarchy) Threaded(dir string) bool {
	text, err := kernfs.ReadFile(dir + "/cgroup.type")
	return err == nil && bytes.Contains(text, []byte("threaded"))
}

// MakeThreaded makes an empty group a member of its parent's threaded tree,
// which begins with it when it is the first.
func (*Hierarchy) MakeThreaded(dir string) error {
	return kernfs.WriteFile(dir+"/cgroup.type", "threaded")
}

// Kill kills all tasks of the group and its descendants, also those that fork
// meanwhile and those that are frozen. It is EOPNOTSUPP before Linux 5.14 and
// within a threaded tree.
func (*Hierarchy) Kill(dir string) error {
	err := kernfs.WriteFile(dir+"/cgroup.kill", "1")
	if err == unix.ENOENT && unix.Access(dir+"/cgroup.freeze", unix.F_OK) == nil {
		err = unix.EOPNOTSUPP
	}
	return err
}

// FrozenDie is true: SIGKILL ends a frozen task at once.
func (*Hierarchy) FrozenDie() bool { return true }

// Open names the freezer of the group at dir; nothing is opened before it is
// needed.
func (h *Hierarchy) Open(dir *kernfs.Dir) *Cgroup {
	c := &Cgroup{
		files: dir, dir: dir.Path(),
		freeze:  dir.File("cgroup.freeze", unix.O_RDWR),
		events:  dir.File("cgroup.events", unix.O_RDONLY),
		kill:    dir.File("cgroup.kill", unix.O_WRONLY),
		procs:   dir.File("cgroup.procs", unix.O_RDONLY),
		threads: dir.File("cgroup.threads", unix.O_RDONLY),
	}
	up := "../"
	for d := filepath.Dir(c.dir); len(d) > len(h.Mount); d = filepath.Dir(d) {
		c.above = append(c.above, dir.File(up+"cgroup.freeze", unix.O_RDONLY))
		up += "../"
	}
	return c
}

// A Cgroup is the freezer of one group. Its methods may be called concurrently.
type Cgroup struct {
	files                *kernfs.Dir
	dir                  string
	freeze, events, kill *kernfs.File
	procs, threads       *kernfs.File
	above                []*kernfs.File // cgroup.freeze of the ancestors, the nearest first
}

// Prepare opens what freezing needs, so that nothing can fail for want of a
// descriptor later.
func (c *Cgroup) Prepare() error { return c.files.Open(c.freeze, c.events) }

// Freezing reads the group's self state. It needs no more than the right to read.
func (c *Cgroup) Freezing() (bool, error) {
	var buf [8]byte
	text, err := c.freeze.ReadInto(buf[:])
	return len(text) > 0 && text[0] == '1', err
}

// ParentFreezing says whether any ancestor that can be seen is freezing.
func (c *Cgroup) ParentFreezing() (bool, error) {
	for _, f := range c.above {
		var buf [8]byte
		text, err := f.ReadInto(buf[:])
		if err == nil && len(text) > 0 && text[0] == '1' {
			return true, nil
		}
		if err != nil && err != unix.ENOENT { // a namespace's root has no such file
			return false, err
		}
	}
	return false, nil
}

// SetFreezing asks for the self state.
func (c *Cgroup) SetFreezing(on bool) error {
	if on {
		return c.freeze.Write("1")
	}
	return c.freeze.Write("0")
}

// Renew does nothing: this freezer needs no second request.
func (c *Cgroup) Renew() error { return nil }

// Event calls wait with a descriptor whose POLLPRI tells that Frozen may have
// changed. The kernel gives at most one notice in 10 ms.
func (c *Cgroup) Event(wait func(fd int) error) error { return c.events.Use(wait) }

// Locked calls do with a descriptor to flock: cgroup.kill's, which only the
// owner may open, so that nobody else can hold the lock for ever.
func (c *Cgroup) Locked(do func(fd int) error) error { return c.kill.Use(do) }

// Processes lists the processes of the group, without its descendants.
func (c *Cgroup) Processes() ([]int, error) {
	text, err := c.procs.ReadAll()
	if err == unix.EOPNOTSUPP { // a threaded group
		return processes(c.dir)
	}
	return kernfs.ParseIDs(text), err
}

// Tasks lists the tasks of the group, without its descendants.
func (c *Cgroup) Tasks() ([]int, error) {
	text, err := c.threads.ReadAll()
	return kernfs.ParseIDs(text), err
}
