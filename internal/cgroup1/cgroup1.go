// Package cgroup1 freezes groups of the kernel's freezer hierarchy; see the
// kernel's Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.
package cgroup1

import (
	"bytes"
	"os"
	"slices"
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

// FrozenTask says whether a task of a freezing group is frozen, from what /proc
// says of it. The kernel stops it in its refrigerator, or leaves it where it
// sleeps when that is one of the sleeps that know of freezing. Both show as D.
func (*Hierarchy) FrozenTask(s proc.Stat, wchan string) bool {
	switch s.State {
	case 'Z', 'X', 'T', 't': // the dead count as frozen, and so do the stopped
		return true
	case 'D':
		return wchan == "__refrigerator" || slices.Contains(freezableSleeps, wchan)
	}
	return false
}

// freezableSleeps are the kernel functions that sleep with TASK_FREEZABLE.
var freezableSleeps = []string{
	"hrtimer_nanosleep", "do_nanosleep", "futex_do_wait", "futex_wait_queue", "futex_wait_multiple",
	"do_epoll_wait", "ep_poll", "poll_schedule_timeout", "do_sys_poll", "do_poll", "do_select", "core_sys_select",
	"do_sigtimedwait", "unix_stream_read_generic", "unix_stream_data_wait", "kernel_clone", "rpc_wait_bit_killable",
}

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

// Open names the freezer of the group at dir; nothing is opened before it is
// needed.
func (*Hierarchy) Open(dir *kernfs.Dir) *Cgroup {
	return &Cgroup{
		dir:    dir,
		state:  dir.File("freezer.state", unix.O_RDWR),
		self:   dir.File("freezer.self_freezing", unix.O_RDONLY),
		parent: dir.File("freezer.parent_freezing", unix.O_RDONLY),
	}
}

// A Cgroup is the freezer of one group. Its methods may be called concurrently.
type Cgroup struct {
	dir                 *kernfs.Dir
	state, self, parent *kernfs.File
}

// Prepare opens what freezing needs.
func (c *Cgroup) Prepare() error { return c.dir.Open(c.state) }

// Freezing reads the group's self state.
func (c *Cgroup) Freezing() (bool, error) { return isOne(c.self) }

// ParentFreezing says whether any ancestor is freezing.
func (c *Cgroup) ParentFreezing() (bool, error) { return isOne(c.parent) }

func isOne(f *kernfs.File) (bool, error) {
	var buf [8]byte
	text, err := f.ReadInto(buf[:])
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
	return bytes.HasPrefix(text, []byte("FROZEN")), err
}

// Renew asks once more for what was asked. A group in which tasks posix_spawn
// or vfork can hang at FREEZING for ever, 15 to 30 times in a hundred; reading
// does not help, writing FROZEN again always does, best once a millisecond.
func (c *Cgroup) Renew() error { return c.SetFreezing(true) }

// Event is EOPNOTSUPP: reaching FROZEN raises no event on this hierarchy.
func (c *Cgroup) Event(func(fd int) error) error { return unix.EOPNOTSUPP }

// Locked calls do with a descriptor to flock. Nothing better than the directory
// itself is there, which anybody may open.
func (c *Cgroup) Locked(do func(fd int) error) error { return c.dir.Use(do) }

// Processes lists the processes of the group, without its descendants.
func (c *Cgroup) Processes() ([]int, error) { return c.ids("cgroup.procs") }

// Tasks lists the tasks of the group, without its descendants.
func (c *Cgroup) Tasks() ([]int, error) { return c.ids("tasks") }

// ids opens the file anew: in one that stays open the kernel shows the same
// list again, for up to a second or as long as anybody reads it.
func (c *Cgroup) ids(file string) ([]int, error) {
	text, err := c.dir.ReadFile(file)
	return kernfs.ParseIDs(text), err
}
