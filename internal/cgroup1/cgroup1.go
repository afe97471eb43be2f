// Package cgroup1 freezes groups of the kernel's freezer hierarchy; see the
// kernel's Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.
package cgroup1

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/hierarchy"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A Hierarchy is the mounted hierarchy that carries the freezer controller.
type Hierarchy struct{ hierarchy.Tree }

// Find returns the freezer hierarchy; ok is false when none is mounted.
func Find(mounts []mountinfo.Mount) (h *Hierarchy, ok bool) {
	t, ok := hierarchy.Find(mounts, unix.CGROUP_SUPER_MAGIC,
		func(m mountinfo.Mount) bool { return m.Type == "cgroup" && m.HasController("freezer") },
		func(c proc.Cgroup) bool { return c.Has("freezer") })
	return &Hierarchy{t}, ok
}

// Procs lists the processes of one group, without its descendants, in
// ascending order.
func (*Hierarchy) Procs(dir string) ([]int, error) { return hierarchy.IDs(dir, "cgroup.procs") }

// Threads lists the tasks of one group, without its descendants.
func (*Hierarchy) Threads(dir string) ([]int, error) { return hierarchy.IDs(dir, "tasks") }

// MoveProcess moves a process with all its threads into the group.
func (*Hierarchy) MoveProcess(dir string, pid int) error {
	return kernfs.WriteFile(dir+"/cgroup.procs", strconv.Itoa(pid))
}

// MoveThread moves one thread.
func (*Hierarchy) MoveThread(dir string, tid int) error {
	return kernfs.WriteFile(dir+"/tasks", strconv.Itoa(tid))
}

// Threaded is always true: cgroup1 knows threads only.
func (*Hierarchy) Threaded(string) bool { return true }

// MakeThreaded does nothing.
func (*Hierarchy) MakeThreaded(string) error { return nil }

// Kill is EOPNOTSUPP: tasks must be signalled one by one.
func (*Hierarchy) Kill(string) error { return unix.EOPNOTSUPP }

// FrozenDie is false: a killed task stays until it is thawed.
func (*Hierarchy) FrozenDie() bool { return false }

// Warm makes an empty frozen group at dir and leaves it there. While any
// cgroup1 group of the host is FROZEN, freezing takes 0.05 ms instead of 5 to
// 15 ms, and so does the last thaw: the kernel need not patch its code for the
// first freezer and for the last.
func (*Hierarchy) Warm(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	return kernfs.WriteFile(dir+"/freezer.state", "FROZEN")
}

// Open names a group's directory; nothing is opened before it is needed.
func (*Hierarchy) Open(dir string) *Cgroup {
	return &Cgroup{
		state: kernfs.New(dir+"/freezer.state", unix.O_RDWR),
		dir:   dir,
	}
}

// A Cgroup is the freezer of one group. Its methods may be called concurrently.
type Cgroup struct {
	dir   string
	state *kernfs.File
}

// Close gives the descriptors back.
func (c *Cgroup) Close() { c.state.Close() }

// Prepare opens what freezing needs.
func (c *Cgroup) Prepare() error { return c.state.Open() }

// Freezing reads the group's self state.
func (c *Cgroup) Freezing() (bool, error) { return isOne(c.dir + "/freezer.self_freezing") }

// ParentFreezing says whether any ancestor is freezing.
func (c *Cgroup) ParentFreezing() (bool, error) { return isOne(c.dir + "/freezer.parent_freezing") }

func isOne(path string) (bool, error) {
	text, err := kernfs.ReadFile(path)
	if err == unix.ENODEV {
		err = unix.ENOENT
	}
	return len(text) > 0 && text[0] == '1', err
}

// SetFreezing asks for the self state.
func (c *Cgroup) SetFreezing(on bool) error {
	if on {
		return c.state.Write("FROZEN")
	}
	return c.state.Write("THAWED")
}

// Frozen says whether each task of the group and its descendants is frozen.
// The kernel finds out while it is asked.
func (c *Cgroup) Frozen() (bool, error) {
	var buf [16]byte
	text, err := c.state.ReadInto(buf[:])
	if err == unix.EACCES { // not ours to write
		text, err = kernfs.ReadFile(c.state.Path())
	}
	return bytes.HasPrefix(text, []byte("FROZEN")), err
}

// Renew asks once more for what was asked. A group in which tasks posix_spawn
// or vfork can hang at FREEZING for ever, 15 to 30 times in a hundred; reading
// does not help, writing FROZEN again always does, best once a millisecond.
func (c *Cgroup) Renew() error { return c.SetFreezing(true) }

// Event is EOPNOTSUPP: reaching FROZEN raises no event on this hierarchy.
func (c *Cgroup) Event(func(fd int) error) error { return unix.EOPNOTSUPP }
