package tracer

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Marker is the name of the variable in the environment of a process that
// belongs to a group; its value is the group's directory.
const Marker = "FREEZER_GROUP"

// A home is where a process belongs.
type home struct {
	path  string // of the group; empty for none
	known bool   // a record says so, its own or that of a process above
}

// A census finds out where processes belong. It reads each process once.
type census struct {
	h          *Hierarchy
	records    map[int]record   // nil when each is read at need
	held       map[int]*process // those whose home is known already
	homes      map[int]home
	stats      map[int]proc.Stat
	runners    map[int]bool
	runner     map[int]int       // by PID, of the nearest above, 0 when there is none
	unsure     map[int]bool      // processes whose environment could not be read
	identities map[string]uint64 // of the groups; 0 for those that are gone
	marked     uint64            // since when processes can be marked, in the unit of proc.Stat.Start
}

const never = 1<<64 - 1

func (h *Hierarchy) census(records map[int]record) *census {
	runners := map[int]bool{}
	for _, pid := range h.runners() {
		runners[pid] = true
	}
	return &census{
		h: h, records: records, marked: h.markedSince(), runners: runners, runner: map[int]int{},
		homes: map[int]home{}, stats: map[int]proc.Stat{}, unsure: map[int]bool{}, identities: map[string]uint64{},
	}
}

// stat reads a process's stat; ok is false when it is gone.
func (c *census) stat(pid int) (s proc.Stat, ok bool) {
	if s, ok = c.stats[pid]; ok {
		return s, s.ID != 0
	}
	s, err := proc.ReadStat(pid)
	if err != nil {
		s = proc.Stat{}
	}
	c.stats[pid] = s
	return s, err == nil
}

// belongs says where a process belongs. A runner belongs nowhere itself.
func (c *census) belongs(pid int) home {
	if c.runners[pid] {
		return home{known: true}
	}
	return c.home(pid)
}

// runnerOf is the runner that a process is, or descends from; 0 for none.
func (c *census) runnerOf(pid int) int {
	if len(c.runners) == 0 || pid <= 1 {
		return 0
	}
	if c.runners[pid] {
		return pid
	}
	r, ok := c.runner[pid]
	if !ok {
		c.runner[pid] = 0 // should parents ever form a ring
		if s, ok := c.stat(pid); ok {
			r = c.runnerOf(s.Parent)
		}
		c.runner[pid] = r
	}
	return r
}

// home says where a process's children belong.
func (c *census) home(pid int) home {
	if p := c.held[pid]; p != nil {
		return home{p.path, true}
	}
	if h, ok := c.homes[pid]; ok {
		return h
	}
	c.homes[pid] = home{} // should parents ever form a ring
	h := c.find(pid)
	c.homes[pid] = h
	return h
}

func (c *census) find(pid int) home {
	s, ok := c.stat(pid)
	if !ok || s.KernelThread() {
		return home{}
	}
	if r, ok := c.record(pid); ok && r.start == s.Start {
		if r.path != "" && !c.exists(r.path, r.id) {
			r.path = ""
		}
		return home{r.path, true}
	}
	if s.Parent > 1 { // PID 1 is everybody's parent in the end
		if h := c.home(s.Parent); h.known {
			return h
		}
	}
	if s.Start >= c.marked && s.State != 'Z' {
		path, err := c.h.marker(pid)
		if path != "" && c.exists(path, 0) {
			return home{path, true}
		}
		c.unsure[pid] = err != nil && err != unix.EACCES
	}
	return home{}
}

func (c *census) record(pid int) (r record, ok bool) {
	if c.records == nil {
		return c.h.recordOf(pid)
	}
	r, ok = c.records[pid]
	return r, ok
}

// exists says whether the group is there, and still the one with that identity
// unless this is 0.
func (c *census) exists(path string, id uint64) bool {
	is, ok := c.identities[path]
	if !ok {
		is, _ = c.h.identity(path)
		c.identities[path] = is
	}
	return is != 0 && (id == 0 || id == is)
}

// members lists the processes that are alive and belong to a group for which
// fits is true.
func (c *census) members(fits func(path string) bool) []int {
	var pids []int
	for _, pid := range proc.All() {
		h := c.belongs(pid)
		if h.path == "" || !fits(h.path) {
			continue
		}
		if s, ok := c.stat(pid); ok && !dead(s) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// dead says whether no thread of a process is left that could run.
func dead(s proc.Stat) bool { return (s.State == 'Z' || s.State == 'X') && s.Threads <= 1 }

// marker reads the group that a process's environment names. The error is
// EAGAIN when the process is just becoming another program or is ending.
func (h *Hierarchy) marker(pid int) (path string, err error) {
	text, err := kernfs.ReadFile(proc.Path(pid, "environ"))
	if err != nil {
		return "", err
	}
	if len(text) == 0 {
		return "", unix.EAGAIN
	}
	for variable := range bytes.SplitSeq(text, []byte{0}) {
		if name, value, ok := bytes.Cut(variable, []byte("=")); ok && string(name) == Marker {
			path, _ := h.path(filepath.Clean(string(value)))
			return path, nil
		}
	}
	return "", nil
}

// Mark returns the variable for the environment of a process that is to belong
// to the group, and its descendants with it.
func (h *Hierarchy) Mark(dir string) (variable string, err error) {
	if _, err := h.path(dir); err != nil {
		return "", err
	}
	if err := h.Make(); err != nil {
		return "", err
	}
	self, err := proc.ReadStat(os.Getpid())
	if err != nil {
		return "", err
	}
	// Who marks is older than, or is, what it marks.
	err = unix.Symlink(strconv.FormatUint(self.Start, 10), filepath.Join(h.mount, markedName))
	if err == unix.EEXIST && h.markedSince() > self.Start {
		path := h.recordPath("marked~" + strconv.Itoa(os.Getpid()))
		if err = unix.Symlink(strconv.FormatUint(self.Start, 10), path); err == nil {
			err = unix.Rename(path, filepath.Join(h.mount, markedName))
		}
	}
	if err == unix.EEXIST {
		err = nil
	}
	return Marker + "=" + dir, err
}

// markedSince saves reading the environments of processes that can have no
// marker, which is as dear as all the rest of a look.
func (h *Hierarchy) markedSince() uint64 {
	text, err := os.Readlink(filepath.Join(h.mount, markedName))
	if err != nil {
		return never
	}
	since, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return since
}
