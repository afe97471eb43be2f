package checkpoint

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// threads looks at the threads of a process.
func (s *survey) threads(p *Process) {
	for _, tid := range proc.Threads(p.PID) {
		t := Thread{TID: tid}
		status, err := kernfs.ReadFile(proc.Path(tid, "status"))
		if err != nil {
			continue // it has ended
		}
		text := func(field string) string { return proc.StatusField(status, field) }
		if text("State") == "Z (zombie)" {
			continue
		}
		t.Command = oneLine(tid, "comm")
		t.Settings = threadSettings(tid, text)
		t.TimerSlack, _ = strconv.ParseUint(oneLine(tid, "timerslack_ns"), 10, 64)
		t.Scheduling = scheduling(tid)
		t.Affinity = affinity(tid)
		t.IOPriority = ioPriority(tid)
		if head, size, err := robustList(tid); err == nil {
			t.RobustList = [2]uint64{head, size}
		}
		where := "thread " + strconv.Itoa(tid)
		switch text("Seccomp") {
		case "1":
			s.hinder(p.PID, where, "it is in the strict mode of seccomp, and cannot be asked")
		case "2":
			s.filtered = true
		}
		if id := readIdentity(text); tid != p.PID && !id.same(p.Identity) {
			s.hinder(p.PID, where, "it acts for another user, or has other capabilities, than its process")
		}
		if tid != p.PID && (kcmp(p.PID, tid, kcmpFiles, 0, 0) != 0 || kcmp(p.PID, tid, kcmpFS, 0, 0) != 0) {
			s.hinder(p.PID, where, "it does not share its process's descriptors or working directory")
		}
		p.Threads = append(p.Threads, t)
	}
	if len(p.Threads) == 0 || p.Threads[0].TID != p.PID {
		s.hinder(p.PID, "process", "its first thread has ended")
	}
}

// same says whether two identities are the same; securebits are not seen in status.
func (id Identity) same(other Identity) bool {
	if id.UIDs != other.UIDs || id.GIDs != other.GIDs || id.Caps != other.Caps || id.NoNewPrivs != other.NoNewPrivs || len(id.Groups) != len(other.Groups) {
		return false
	}
	for i := range id.Groups {
		if id.Groups[i] != other.Groups[i] {
			return false
		}
	}
	return true
}

// scheduling reads a task's struct sched_attr.
func scheduling(tid int) []byte {
	attr := make([]byte, 56)
	_, _, errno := unix.RawSyscall6(unix.SYS_SCHED_GETATTR, uintptr(tid), uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)), 0, 0, 0)
	if errno != 0 {
		return nil
	}
	return attr
}

func setScheduling(tid int, attr []byte) error {
	if len(attr) == 0 {
		return nil
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETATTR, uintptr(tid), uintptr(unsafe.Pointer(&attr[0])), 0)
	return number(errno)
}

// affinity reads the processors on which a task may run.
func affinity(tid int) []byte {
	set := make([]byte, 1024)
	n, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid), uintptr(len(set)), uintptr(unsafe.Pointer(&set[0])))
	if errno != 0 {
		return nil
	}
	return set[:n]
}

func setAffinity(tid int, set []byte) error {
	if len(set) == 0 {
		return nil
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, uintptr(tid), uintptr(len(set)), uintptr(unsafe.Pointer(&set[0])))
	return number(errno)
}

const ioprioWhoProcess = 1

func ioPriority(tid int) int {
	n, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func setIOPriority(tid, priority int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(priority))
	return number(errno)
}

func robustList(tid int) (head, size uint64, err error) {
	_, _, errno := unix.RawSyscall(unix.SYS_GET_ROBUST_LIST, uintptr(tid), uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&size)))
	return head, size, number(errno)
}

// number is an errno as an error, nil for none.
func number(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}
