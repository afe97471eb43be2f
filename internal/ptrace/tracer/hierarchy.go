package tracer

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A Hierarchy is the place where one user's groups are. All methods may be
// called concurrently.
type Hierarchy struct {
	mount string

	mu   sync.Mutex
	idle map[string][]*os.File // connections to tracers, by socket
}

// Mount is the place's directory, which need not exist.
func (h *Hierarchy) Mount() string { return h.mount }

// Dir returns the group's directory, or the place itself for a process in none.
// Threads are where their process is. The error is ESRCH when there is no such
// task.
func (h *Hierarchy) Dir(id int) (string, error) {
	pid := proc.Process(id)
	if pid == 0 {
		return "", unix.ESRCH
	}
	return h.dir(h.census(nil).belongs(pid).path), nil
}

// Procs lists the processes of one group, without its descendants, in ascending
// order. What has ended is left out.
func (h *Hierarchy) Procs(dir string) ([]int, error) {
	path, err := h.path(dir)
	if err != nil {
		return nil, err
	}
	if _, ok := h.identity(path); !ok {
		return nil, unix.ENOENT
	}
	return h.census(h.records()).members(func(other string) bool { return other == path }), nil
}

// Threads lists the tasks of one group, without its descendants.
func (h *Hierarchy) Threads(dir string) ([]int, error) {
	pids, err := h.Procs(dir)
	var tids []int
	for _, pid := range pids {
		tids = append(tids, proc.Threads(pid)...)
	}
	return tids, err
}

// MoveProcess puts a process into a group, or out of all when dir is the place
// itself. Its children stay where they are.
func (h *Hierarchy) MoveProcess(dir string, pid int) error {
	path := ""
	if dir != h.mount {
		var err error
		if path, err = h.path(dir); err != nil {
			return err
		}
	}
	if err := unix.Kill(pid, 0); err != nil {
		return err
	}
	if err := h.Make(); err != nil {
		return err
	}
	if err := h.move(path, pid); err != nil {
		return err
	}
	_, err := h.ask(false, "moved", uint64(pid), path)
	if err == errNobody {
		return nil
	}
	return err
}

func (h *Hierarchy) move(path string, pid int) error {
	defer h.lock()()
	id, ok := h.identity(path)
	if !ok {
		return unix.ENOENT
	}
	c := h.census(nil)
	s, ok := c.stat(pid)
	if !ok || dead(s) {
		return unix.ESRCH
	}
	for _, child := range children(pid) {
		cs, ok := c.stat(child)
		if r, has := h.recordOf(child); !ok || has && r.start == cs.Start {
			continue
		}
		r := record{start: cs.Start, path: c.home(child).path}
		r.id, _ = h.identity(r.path)
		if err := h.setRecord(child, r); err != nil {
			return err
		}
	}
	from := c.home(pid).path
	if err := h.setRecord(pid, record{s.Start, id, path}); err != nil {
		return err
	}
	if from != "" {
		h.touch(from)
	}
	if path != "" {
		h.touch(path)
		_ = unix.Chmod(h.dir(path)+"/"+ChangesName, 0o600)
	}
	return nil
}

// children lists the processes whose parent this one is.
func children(pid int) []int {
	var pids []int
	for _, tid := range proc.Threads(pid) {
		text, err := kernfs.ReadFile(proc.Path(pid, "task/"+strconv.Itoa(tid)+"/children"))
		if err == unix.ENOENT && tid == pid { // a kernel without this file
			return slices.DeleteFunc(proc.All(), func(p int) bool {
				s, err := proc.ReadStat(p)
				return err != nil || s.Parent != pid
			})
		}
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// MoveThread is EOPNOTSUPP: threads are where their process is.
func (*Hierarchy) MoveThread(string, int) error { return unix.EOPNOTSUPP }

// Threaded is false.
func (*Hierarchy) Threaded(string) bool { return false }

// MakeThreaded is EOPNOTSUPP.
func (*Hierarchy) MakeThreaded(string) error { return unix.EOPNOTSUPP }

// Kill holds all tasks of the group and below, so that none forks, and kills
// them. It is EOPNOTSUPP when that did not get them all: they must be killed
// one by one, as often as it takes.
func (h *Hierarchy) Kill(dir string) error {
	path, err := h.path(dir)
	if err != nil {
		return err
	}
	id, ok := h.identity(path)
	if !ok {
		return unix.ENOENT
	}
	_, err = h.ask(true, "kill", id, path)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ETIMEDOUT) {
		return unix.EOPNOTSUPP
	}
	return err
}

// FrozenDie is true: SIGKILL ends a task in a ptrace stop.
func (*Hierarchy) FrozenDie() bool { return true }

// Remove removes a group. The error is EBUSY when it has processes or children.
func (h *Hierarchy) Remove(dir string) error {
	path, err := h.path(dir)
	if err != nil {
		return err
	}
	defer h.lock()()
	id, ok := h.identity(path)
	if !ok {
		return unix.ENOENT
	}
	pids, err := h.Procs(dir)
	if err == nil && len(pids) > 0 {
		err = unix.EBUSY
	}
	if err != nil {
		return err
	}
	if hasChildren(dir) {
		return unix.EBUSY
	}
	for range 3 { // the tracer may just tell of a thaw, and make the file again
		_ = unix.Unlink(dir + "/" + ChangesName)
		if err = unix.Rmdir(dir); err != unix.ENOTEMPTY {
			break
		}
	}
	if err == unix.ENOTEMPTY {
		return unix.EBUSY
	}
	if err != nil {
		return err
	}
	_, err = h.ask(false, "gone", id, path)
	if err == errNobody {
		return nil
	}
	return err
}

// hasChildren says whether a group has groups below.
func hasChildren(dir string) bool {
	entries, _ := os.ReadDir(dir)
	return slices.ContainsFunc(entries, os.DirEntry.IsDir)
}

// FrozenTask says whether a task of a freezing group is held.
func (h *Hierarchy) FrozenTask(s proc.Stat, _ string) bool {
	answer, err := h.ask(false, "task", uint64(s.ID), "")
	return err == nil && answer == "held"
}

// WhyLate says why a task of a freezing group is not held, and what would let it
// be; both are empty when it is about to stop.
func (h *Hierarchy) WhyLate(tid int) (reason, release string) {
	answer, _ := h.ask(false, "task", uint64(tid), "")
	if why, ok := strings.CutPrefix(answer, "late "); ok {
		reason, release, _ = strings.Cut(why, "; ")
	}
	return reason, release
}

// DirIn is ENOENT: no cgroup tells where a process belongs.
func (*Hierarchy) DirIn([]proc.Cgroup) (string, error) { return "", unix.ENOENT }
