// Package proc reads what /proc says of tasks; proc(5) has the forms.
package proc

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
)

const flagKernelThread = 0x00200000 // PF_KTHREAD

// A Stat is the part of /proc/ID/stat that this project uses.
type Stat struct {
	ID      int
	Command string // at most 15 bytes
	State   byte   // R, S, D, T, t, Z, X, I
	Parent  int    // PID
	Flags   uint64 // PF_ of the kernel's sched.h
	Threads int
	Start   uint64 // clock ticks since boot: with the PID it names one process for good
}

// KernelThread says whether the task belongs to the kernel.
func (s Stat) KernelThread() bool { return s.Flags&flagKernelThread != 0 }

// ReadStat reads the stat of a process or task. The error is ESRCH when there is none.
func ReadStat(id int) (Stat, error) {
	var buf [1024]byte // more than the kernel ever writes
	text, err := kernfs.ReadOnce(Path(id, "stat"), buf[:])
	if err != nil {
		return Stat{}, gone(err)
	}
	s, ok := ParseStat(text)
	if !ok {
		return Stat{}, unix.EINVAL
	}
	return s, nil
}

// ParseStat reads a stat line. The command stands in parentheses and may hold
// anything, parentheses and newlines too: the last one ends it.
func ParseStat(text []byte) (s Stat, ok bool) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return s, false
	}
	id, err := strconv.Atoi(string(bytes.TrimSpace(text[:open])))
	if err != nil {
		return s, false
	}
	s = Stat{ID: id, Command: string(text[open+1 : end])}
	field := 3 // of proc(5)
	for word := range bytes.FieldsSeq(text[end+1:]) {
		switch field {
		case 3:
			if len(word) != 1 {
				return s, false
			}
			s.State = word[0]
		case 4:
			s.Parent, _ = strconv.Atoi(string(word))
		case 9:
			s.Flags, _ = strconv.ParseUint(string(word), 10, 64)
		case 20:
			s.Threads, _ = strconv.Atoi(string(word))
		case 22:
			s.Start, _ = strconv.ParseUint(string(word), 10, 64)
			return s, true
		}
		field++
	}
	return s, false
}

// Path is the path of a file in /proc/ID.
func Path(id int, file string) string { return "/proc/" + strconv.Itoa(id) + "/" + file }

// gone turns the errors that a vanished task gives into ESRCH.
func gone(err error) error {
	if err == unix.ENOENT {
		return unix.ESRCH
	}
	return err
}

// WaitChannel returns the kernel function in which a task sleeps; empty when it
// sleeps in none, or when that is not shown to us.
func WaitChannel(id int) string {
	text, err := kernfs.ReadFile(Path(id, "wchan"))
	if err != nil || string(text) == "0" {
		return ""
	}
	return string(text)
}

// Status returns the value of one field of /proc/ID/status, such as Tgid,
// NSpid or TracerPid; empty when the task or the field is not there.
func Status(id int, field string) string {
	text, err := kernfs.ReadFile(Path(id, "status"))
	if err != nil {
		return ""
	}
	return StatusField(text, field)
}

// StatusField finds a field in the text of a status file.
func StatusField(text []byte, field string) string {
	for line := range bytes.Lines(text) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && string(name) == field {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// Process returns the PID of the process that a task belongs to, 0 when there
// is no such task.
func Process(tid int) int {
	pid, _ := strconv.Atoi(Status(tid, "Tgid"))
	return pid
}

// Threads lists the TIDs of a process in ascending order.
func Threads(pid int) []int { return ids(entries(Path(pid, "task"))) }

// All lists the PIDs of all processes that this PID namespace knows, in ascending
// order.
func All() []int { return ids(Entries()) }

// An Entry is a process as the listing of /proc shows it.
type Entry struct {
	ID    int
	Inode uint64 // of its directory: not a number that another process with this ID had
}

// Entries is All with more. An inode number is that of a process for good, but it
// may get another one when the kernel needs memory.
func Entries() []Entry { return entries("/proc") }

func ids(entries []Entry) []int {
	var ids []int
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// entries lists the entries of a directory that are numbers. It does without
// os.File, whose first use has the runtime open two descriptors for its poller,
// and end the program when there are none left.
func entries(dir string) []Entry {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var all []Entry
	const name = 19 // where it is in a struct linux_dirent64, see getdents(2)
	for buf := make([]byte, 16<<10); ; {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n <= 0 {
			break
		}
		for rest := buf[:n]; len(rest) > name; {
			inode, size := binary.NativeEndian.Uint64(rest), binary.NativeEndian.Uint16(rest[16:])
			text, _, _ := bytes.Cut(rest[name:size], []byte{0})
			if id, err := strconv.Atoi(string(text)); err == nil {
				all = append(all, Entry{id, inode})
			}
			rest = rest[size:]
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return a.ID - b.ID })
	return all
}

// Descendants returns all processes below those in family, which maps PIDs to
// start times, parents before children. It reads /proc once: processes forked
// meanwhile can be missing, and those whose parent has ended are nobody's.
func Descendants(family map[int]uint64) []Stat {
	children := map[int][]Stat{}
	var queue []int
	for _, pid := range All() {
		s, err := ReadStat(pid)
		if err != nil {
			continue
		}
		children[s.Parent] = append(children[s.Parent], s)
		if start, ok := family[pid]; ok && start == s.Start {
			queue = append(queue, pid)
		}
	}
	var below []Stat
	for ; len(queue) > 0; queue = queue[1:] {
		for _, s := range children[queue[0]] {
			below = append(below, s)
			queue = append(queue, s.ID)
		}
		delete(children, queue[0]) // it may be queued again as a child of another
	}
	return below
}

// Ancestors returns the parents of a process, the nearest first, up to PID 1
// or to where this PID namespace ends.
func Ancestors(pid int) []int {
	var out []int
	for pid != 1 {
		s, err := ReadStat(pid)
		if err != nil || s.Parent <= 0 {
			break
		}
		out = append(out, s.Parent)
		pid = s.Parent
	}
	return out
}

// Cgroups reads /proc/ID/cgroup (see cgroups(7)).
func Cgroups(id int) ([]Cgroup, error) {
	text, err := kernfs.ReadFile(Path(id, "cgroup"))
	if err != nil {
		return nil, gone(err)
	}
	return ParseCgroups(text), nil
}

// A Cgroup is one line of /proc/ID/cgroup: where the task is in one hierarchy.
type Cgroup struct {
	Controllers string // empty for cgroup2
	Path        string // from the root of the reader's cgroup namespace
	V2          bool
}

// ParseCgroups reads lines of the form ID:CONTROLLERS:PATH; others are left out.
func ParseCgroups(text []byte) []Cgroup {
	var out []Cgroup
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "/") {
			continue
		}
		out = append(out, Cgroup{
			Controllers: f[1],
			Path:        strings.TrimSuffix(f[2], " (deleted)"),
			V2:          f[0] == "0" && f[1] == "",
		})
	}
	return out
}

// Has says whether this line's hierarchy carries a cgroup1 controller.
func (c Cgroup) Has(controller string) bool {
	for w := range strings.SplitSeq(c.Controllers, ",") {
		if w == controller {
			return true
		}
	}
	return false
}
