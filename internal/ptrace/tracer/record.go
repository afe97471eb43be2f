package tracer

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A record names the group that a process was put into. It is a symbolic link,
// whose name is the PID and whose text is the rest: one system call reads it,
// and one replaces it at a stroke, so that a process is in one group always.
type record struct {
	start uint64 // when the process started: another one may get its PID
	id    uint64 // of the group's directory
	path  string // of the group; empty for none
}

func (r record) String() string { return fmt.Sprintf("%d %d %s", r.start, r.id, r.path) }

func parseRecord(text string) (r record, ok bool) {
	f := strings.SplitN(text, " ", 3)
	if len(f) != 3 {
		return r, false
	}
	start, err1 := strconv.ParseUint(f[0], 10, 64)
	id, err2 := strconv.ParseUint(f[1], 10, 64)
	return record{start, id, f[2]}, err1 == nil && err2 == nil
}

func (h *Hierarchy) recordPath(name string) string { return filepath.Join(h.mount, recordsName, name) }

// recordOf reads one process's record. Whatever is no record counts as none.
func (h *Hierarchy) recordOf(pid int) (record, bool) {
	var buf [4200]byte
	n, err := unix.Readlink(h.recordPath(strconv.Itoa(pid)), buf[:])
	if err != nil {
		return record{}, false
	}
	return parseRecord(string(buf[:n]))
}

var recordsMade atomic.Int64

// setRecord writes a process's record.
func (h *Hierarchy) setRecord(pid int, r record) error {
	temporary := h.recordPath(fmt.Sprintf("%d~%d-%d", pid, os.Getpid(), recordsMade.Add(1)))
	if err := unix.Symlink(r.String(), temporary); err != nil {
		return err
	}
	err := unix.Rename(temporary, h.recordPath(strconv.Itoa(pid)))
	if err != nil {
		_ = unix.Unlink(temporary)
	}
	return err
}

// records reads all.
func (h *Hierarchy) records() map[int]record {
	all := map[int]record{}
	dir, err := os.Open(filepath.Join(h.mount, recordsName))
	if err != nil {
		return all
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var buf [4200]byte
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		n, err := unix.Readlinkat(int(dir.Fd()), name, buf[:])
		if err != nil {
			continue
		}
		if r, ok := parseRecord(string(buf[:n])); ok {
			all[pid] = r
		}
	}
	return all
}

// forget removes the record of a process that has ended.
func (h *Hierarchy) forget(pid int, old record) {
	defer h.lock()()
	if now, ok := h.recordOf(pid); ok && now == old {
		_ = unix.Unlink(h.recordPath(strconv.Itoa(pid)))
	}
}

// lockWait bounds how long a change waits for another one: who may open the
// place can hold the lock for ever. Without it a group may be removed while a
// process is put into it, which then is in none.
const lockWait = 100 * time.Millisecond

// lock keeps others from changing records and removing groups.
func (h *Hierarchy) lock() (unlock func()) {
	fd, err := unix.Open(h.mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	nap := 20 * time.Microsecond
	for start := time.Now(); unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil && time.Since(start) < lockWait; {
		time.Sleep(nap)
		nap = min(2*nap, 5*time.Millisecond)
	}
	return func() { unix.Close(fd) }
}
