package tracer

import (
	"bytes"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// What the kernel counts for all of the host spares asking process by process.

// A kept is a file of /proc that is read again and again: opening it is most of
// the work.
type kept func() (fd int)

func keep(path string) kept {
	return sync.OnceValue(func() int {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1
		}
		return fd
	})
}

func (k kept) read(buf []byte) []byte {
	n, _ := unix.Pread(k(), buf, 0)
	return buf[:max(n, 0)]
}

var loadAverage, statistics = keep("/proc/loadavg"), keep("/proc/stat")

// lastPID is the PID that was given last.
func lastPID() int {
	var buf [128]byte
	f := bytes.Fields(loadAverage.read(buf[:]))
	if len(f) != 5 {
		return 0
	}
	pid, _ := strconv.Atoi(string(f[4]))
	return pid
}

// births is how many tasks, processes and threads, were ever born on this host; 0
// when that cannot be read. The kernel counts a task in the moment in which it
// can be found: so when the number is what it was before a listing, that has all
// there are. (A PID is given before its task can be found.) It takes 10 µs.
func (t *tracer) births() uint64 {
	_, text, _ := bytes.Cut(statistics.read(t.text[:]), []byte("\nprocesses "))
	number, _, _ := bytes.Cut(text, []byte("\n"))
	n, _ := strconv.ParseUint(string(number), 10, 64)
	return n
}

// unborn says whether nothing has been born, when the present look began, since
// there were so many births.
func (t *tracer) unborn(since uint64) bool { return since != 0 && since == t.born }

// given says whether a number was given to a process while the number given last
// went from one to another. They begin anew when they end.
func given(from, pid, to int) bool {
	if from <= to {
		return from < pid && pid <= to
	}
	return from < pid || pid <= to
}
