package freezer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Processes lists the PIDs of the processes in the group, without its
// descendants, in ascending order.
func (g *Group) Processes() ([]int, error) {
	return g.list(g.cg.Processes)
}

// Tasks lists the TIDs of the tasks in the group, without its descendants, in
// ascending order.
func (g *Group) Tasks() ([]int, error) {
	return g.list(g.cg.Tasks)
}

func (g *Group) list(read func() ([]int, error)) (ids []int, err error) {
	err = g.fresh(func() (err error) {
		ids, err = read()
		return err
	})
	slices.Sort(ids)
	return ids, opError("list", g.name, err)
}

// Add moves a process, with all its threads, into the group. It freezes there
// when the group is frozen, and runs when it is not, wherever it came from.
// What it forks afterwards is in the group, too.
//
// The error matches ErrPID when pid can be no process, ErrNoTask when there is
// none, ErrPermission when the caller may not move it, and ErrSelf when the group
// is freezing and Freeze would refuse to freeze that process. The caller itself
// may go in: it stops there until the thaw.
func (g *Group) Add(pid int) error {
	return opError("add to", g.name, g.add(pid))
}

func (g *Group) add(pid int) error {
	if err := movable(pid); err != nil {
		return err
	}
	if err := g.admits(pid); err != nil {
		return err
	}
	err := g.backend.MoveProcess(g.dir, pid)
	g.f.guard.forget()
	return explainMove(pid, err)
}

// movable says, with ErrPID or ErrNoTask, why a task cannot be moved anywhere.
func movable(id int) error {
	if id <= 0 || id > 1<<22 { // the largest PID that Linux can give (PID_MAX_LIMIT)
		return fmt.Errorf("%w: %d is not between 1 and %d", ErrPID, id, 1<<22)
	}
	s, err := proc.ReadStat(id)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %d", ErrNoTask, id)
	}
	if err != nil {
		return err
	}
	switch {
	case s.KernelThread():
		return fmt.Errorf("%w: %d (%s) is a kernel thread", ErrPID, id, s.Command)
	case s.State == 'Z' && s.Threads <= 1: // with more, only its first thread has ended
		return fmt.Errorf("%w: %d has ended, and its parent has not noticed", ErrNoTask, id)
	}
	return nil
}

// explainMove adds to the kernel's errno what the user needs to know.
func explainMove(id int, err error) error {
	switch err {
	case unix.ESRCH:
		return fmt.Errorf("%w: %d", ErrNoTask, id)
	case unix.EBUSY:
		return fmt.Errorf("%w: the group hands controllers down to its children (cgroup.subtree_control), so only these can have tasks", err)
	case unix.EACCES, unix.EPERM:
		return &errnoError{fmt.Errorf("%w: moving %d needs write access to cgroup.procs here and in the group above both places", ErrPermission, id), err.(unix.Errno)}
	}
	return err
}

// AddTask moves one task into the group: a single thread where the tree is
// threaded (WithThreads, or cgroup1), elsewhere a process that has only one;
// one thread of many is then ErrUnsupported. Errors are otherwise those of Add.
func (g *Group) AddTask(tid int) error {
	return opError("add to", g.name, g.addTask(tid))
}

func (g *Group) addTask(tid int) error {
	if err := movable(tid); err != nil {
		return err
	}
	pid := proc.Process(tid)
	if pid == 0 {
		return fmt.Errorf("%w: %d", ErrNoTask, tid)
	}
	if err := g.admits(pid); err != nil {
		return err
	}
	defer g.f.guard.forget()
	if !g.backend.Threaded(g.dir) {
		if n := len(proc.Threads(pid)); n > 1 {
			return fmt.Errorf("%w: task %d is one of %d threads of process %d, and this tree is not threaded: add the process", ErrUnsupported, tid, n, pid)
		}
		return explainMove(pid, g.backend.MoveProcess(g.dir, pid))
	}
	err := g.backend.MoveThread(g.dir, tid)
	if err == unix.EOPNOTSUPP && g.name[0] != '/' {
		// The process is outside of the threaded tree: its root takes it in first.
		if err := g.backend.MoveProcess(g.f.root, pid); err != nil {
			return explainMove(pid, err)
		}
		err = g.backend.MoveThread(g.dir, tid)
	}
	return explainMove(tid, err)
}

// AddTree moves a process and all its descendants into the group. Processes
// that are forked meanwhile are caught: a pass over /proc is repeated until it
// finds nothing new. One whose parent ended before either was moved is no
// descendant any more.
func (g *Group) AddTree(pid int) error {
	return opError("add to", g.name, g.addTree(pid, g.add))
}

func (g *Group) addTree(pid int, add func(pid int) error) error {
	if err := add(pid); err != nil {
		return err
	}
	s, err := proc.ReadStat(pid)
	if err != nil {
		return nil // it has ended, and what it left is somebody else's
	}
	moved := map[int]uint64{pid: s.Start} // start times: PIDs are used again
	for more := true; more; {
		more = false
		for _, s := range proc.Descendants(moved) {
			if start, ok := moved[s.ID]; ok && start == s.Start {
				continue
			}
			moved[s.ID], more = s.Start, true
			if g.Contains(s.ID) {
				continue
			}
			if err := add(s.ID); err != nil && !errors.Is(err, ErrNoTask) {
				return err
			}
		}
	}
	return nil
}

// Contains says whether the task is in this very group.
func (g *Group) Contains(id int) bool {
	dir, err := g.backend.Dir(id)
	return err == nil && dir == g.dir
}

// Covers says whether the task is in this group or below it.
func (g *Group) Covers(id int) bool {
	dir, err := g.backend.Dir(id)
	return err == nil && under(g.dir, dir)
}

// A Process is what a list of a group's processes says of one.
type Process struct {
	Group   string `json:"group,omitempty"` // which one of a list's groups it is in
	PID     int    `json:"pid"`
	Parent  int    `json:"parent"`
	User    int    `json:"uid"`
	Threads int    `json:"threads"`
	State   string `json:"state"`   // the letter of proc(5)
	Command string `json:"command"` // the command line, or its name in brackets

	Pending []string `json:"pending,omitempty"` // signals that wait for it
}

// Describe reads what /proc says of a process; ok is false when it is gone.
func Describe(pid int) (p Process, ok bool) {
	s, err := proc.ReadStat(pid)
	if err != nil {
		return p, false
	}
	p = Process{PID: pid, Parent: s.Parent, Threads: s.Threads, State: string(s.State), Command: "[" + s.Command + "]"}
	p.Pending = pendingSignals(pid)
	if uid, _, _ := strings.Cut(proc.Status(pid, "Uid"), "\t"); uid != "" {
		p.User, _ = strconv.Atoi(uid)
	}
	if text, err := kernfs.ReadFile(proc.Path(pid, "cmdline")); err == nil && len(text) > 0 {
		p.Command = strings.ReplaceAll(strings.TrimRight(string(text), "\x00"), "\x00", " ")
	}
	return p, true
}
