package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A Lock is one that a process has taken on a file, by a descriptor. Those of
// flock(2) and open file description locks belong to the open file, and are kept
// with the process that was first seen to have it; POSIX locks are the process's own.
type Lock struct {
	FD     int    `json:"fd"`
	Kind   string `json:"kind"`
	Write  bool   `json:"write,omitempty"` // exclusive
	Start  int64  `json:"start,omitempty"`
	Length int64  `json:"length,omitempty"` // 0: to the end of the file, wherever that is
}

// The kinds of locks, as fdinfo has them.
const (
	lockFlock = "FLOCK"
	lockPOSIX = "POSIX"
	lockOpen  = "OFDLCK"
)

// locks reads the locks that are shown with a descriptor. again says that the open
// file was seen before, in this or another process.
func (s *survey) locks(p *Process, d Descriptor, where string, info []byte, again bool) {
	seen := false // by another descriptor of the process: the same are shown
	for _, other := range p.Descriptors {
		seen = seen || other.File == d.File && other.FD != d.FD
	}
	for line := range strings.Lines(string(info)) {
		text, ok := strings.CutPrefix(line, "lock:")
		if !ok || seen {
			continue
		}
		// 1: POSIX  ADVISORY  WRITE 359 00:13:11691 0 EOF
		f := strings.Fields(text)
		l := Lock{FD: d.FD}
		end := int64(-1)
		var errs [2]error
		if len(f) == 8 {
			l.Kind, l.Write = f[1], f[3] == "WRITE"
			l.Start, errs[0] = strconv.ParseInt(f[6], 10, 64)
			if f[7] != "EOF" {
				end, errs[1] = strconv.ParseInt(f[7], 10, 64)
				l.Length = end - l.Start + 1
			}
		}
		switch {
		case errors.Join(errs[:]...) != nil || !l.check() || f[2] != "ADVISORY" || f[3] != "WRITE" && f[3] != "READ":
			s.hinder(p.PID, where, "it has a lock of an unknown kind: %s", strings.TrimSpace(text))
		case l.Kind == lockPOSIX || !again:
			p.Locks = append(p.Locks, l)
		}
	}
}

// leased says whether there is a lease on a file (F_SETLEASE). To open the file, even
// to read it, would break the lease.
func leased(info []byte) bool {
	return bytes.Contains(info, []byte(" LEASE ")) || bytes.Contains(info, []byte(" DELEG "))
}

// lock takes a process's locks again.
func (r *restorer) lock(w *worker, p *Process) error {
	for _, l := range p.Locks {
		const what = "lock"
		kind := unix.F_RDLCK
		if l.Write {
			kind = unix.F_WRLCK
		}
		b := make([]byte, 32) // struct flock
		put64(b, uint64(kind))
		put64(b[8:], uint64(l.Start))
		put64(b[16:], uint64(l.Length))
		switch l.Kind {
		case lockPOSIX:
			w.do(what, unix.SYS_FCNTL, uintptr(l.FD), unix.F_SETLK, w.put(b))
		case lockOpen:
			w.do(what, unix.SYS_FCNTL, uintptr(l.FD), unix.F_OFD_SETLK, w.put(b))
		case lockFlock:
			op := unix.LOCK_SH
			if l.Write {
				op = unix.LOCK_EX
			}
			w.do(what, unix.SYS_FLOCK, uintptr(l.FD), uintptr(op|unix.LOCK_NB))
		}
		if err := w.work(); errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return fmt.Errorf("descriptor %d of process %d has a lock on a file that is locked by others now%s: %w", l.FD, p.PID, lockedBy(w.pid, l.FD), unix.EAGAIN)
		} else if err != nil {
			return fmt.Errorf("descriptor %d: %w", l.FD, err)
		}
	}
	return nil
}

// lockedBy says in words which file a descriptor has, and who has locked it.
func lockedBy(pid, fd int) string {
	path := proc.Path(pid, "fd/"+strconv.Itoa(fd))
	text := ""
	if name, err := os.Readlink(path); err == nil {
		text = ": " + name
	}
	id, err := inodeOf(path)
	all, err2 := kernfs.ReadFile("/proc/locks")
	if err != nil || err2 != nil {
		return text
	}
	key := fmt.Sprintf("%02x:%02x:%d", unix.Major(id.dev), unix.Minor(id.dev), id.ino)
	for line := range strings.Lines(string(all)) {
		if f := strings.Fields(line); len(f) == 8 && f[5] == key && f[4] != strconv.Itoa(pid) && f[4] != "-1" {
			return text + ", by process " + f[4]
		}
	}
	return text
}

// check says whether such a lock can be.
func (l *Lock) check() bool {
	switch l.Kind {
	case lockFlock, lockPOSIX, lockOpen:
		return l.Start >= 0 && l.Length >= 0
	}
	return false
}
