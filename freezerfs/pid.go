package freezerfs

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Tasks have a number in each PID namespace that sees them: their own and those
// above it (see NSpid in proc_pid_status(5)). Requests have the server's numbers;
// what is read and written has the caller's.

// A pidSpace is the server's own PID namespace, by the name of proc_pid_ns(5).
type pidSpace string

func ownPIDs() pidSpace { return pidSpace(pidNamespace(os.Getpid())) }

func pidNamespace(id int) string {
	name, _ := os.Readlink(proc.Path(id, "ns/pid"))
	return name
}

// A view is a PID namespace as the server sees it.
type view struct {
	tid   int // whose it is
	own   bool
	name  string
	level int // how far it is below the server's own
}

// viewOf returns the namespace of a caller. It is kept with the open file: a
// task's namespace does not change.
func (h *handle) viewOf(fs *fileSystem, c caller) (view, error) {
	if c.tid == 0 { // in a namespace above or beside ours: its numbers mean nothing here
		return view{}, freezer.ErrNoTask
	}
	if h.view.tid != c.tid {
		h.view = fs.pids.view(c.tid)
	}
	return h.view, nil
}

func (own pidSpace) view(tid int) view {
	name := pidNamespace(tid)
	if name == "" || name == string(own) { // unseen by a user's server, whose clients are like itself
		return view{tid: tid, own: true}
	}
	return view{tid: tid, name: name, level: len(numbersOf(tid)) - 1}
}

// numbersOf returns the task's numbers, from the server's namespace down to its own.
func numbersOf(id int) []string { return strings.Fields(proc.Status(id, "NSpid")) }

// number is the task's number in the namespace, 0 when it is not seen there.
func (v view) number(id int) int {
	in := numbersOf(id)
	if len(in) <= v.level || !v.holds(id, len(in)-1) {
		return 0
	}
	n, _ := strconv.Atoi(in[v.level])
	return n
}

// holds says whether the task's namespace, so many levels below the server's, is
// this one or below it.
func (v view) holds(id, level int) bool {
	if level == v.level {
		return pidNamespace(id) == v.name
	}
	fd, err := unix.Open(proc.Path(id, "ns/pid"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for ; err == nil && level > v.level; level-- {
		var up int
		up, err = unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		unix.Close(fd)
		fd = up
	}
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return err == nil && name == v.name
}

// numbers translates a list, which may be changed by that.
func (v view) numbers(ids []int) []int {
	if v.own {
		return ids
	}
	out := ids[:0]
	for _, id := range ids {
		if n := v.number(id); n != 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// find returns the task with that number in the namespace, 0 when there is none.
func (v view) find(n int) int {
	if v.own {
		return n
	}
	ours := pidNamespace(os.Getpid())
	for _, pid := range proc.All() {
		if pidNamespace(pid) == ours { // most are, and this is cheaper to see than the rest
			continue
		}
		if v.number(pid) == n {
			return pid
		}
		for _, tid := range proc.Threads(pid) {
			if tid != pid && v.number(tid) == n {
				return tid
			}
		}
	}
	return 0
}
