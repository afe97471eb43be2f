package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A Terminal is a pseudo-terminal whose master, and all whose users, are in the
// job. Its number is part of its name, /dev/pts/N, and stays the same.
type Terminal struct {
	Number    int       `json:"number"`
	Settings  []byte    `json:"settings"` // struct termios2
	Size      [4]uint16 `json:"size"`     // struct winsize
	Packet    bool      `json:"packet,omitempty"`
	Locked    bool      `json:"locked,omitempty"`
	Exclusive bool      `json:"exclusive,omitempty"`
	Left      bool      `json:"left,omitempty"` // those who had it open have closed it
	Mode      uint32    `json:"mode"`
	UID       int       `json:"uid"`
	GID       int       `json:"gid"`
}

const (
	settingsSize = 44 // of struct termios2
	maxTerminal  = 1 << 20
)

func (t *Terminal) path() string { return "/dev/pts/" + strconv.Itoa(t.Number) }

// terminalState is what a survey knows of terminals.
type terminalState struct {
	numbers  map[int]int         // of open files, by their places in Files
	masters  map[int]int         // the open file of each master, by its number
	outside  map[int]bool        // masters that others have, too
	controls map[int]controlling // by process
}

// controlling is the terminal of a process's session, as a device, and the
// process group in its foreground.
type controlling struct {
	device     uint64
	foreground int
}

func ioctl(fd, request int, b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	return number(errno)
}

// ptsMajor is the major number of the devices in /dev/pts.
const ptsMajor = 136

// isTerminal says whether a device is a terminal, or makes one.
func isTerminal(device uint64) bool {
	major := unix.Major(device)
	return major == ptsMajor || major == 4 || major == 5
}

// terminal looks at a descriptor of a terminal. Whether it is the group's own is
// seen when all masters are known.
func (s *survey) terminal(p *Process, fd int, st *unix.Stat_t, info []byte, f *File) {
	f.Kind = fileOutside
	number := -1
	switch major := unix.Major(st.Rdev); {
	case major == ptsMajor:
		f.Kind, number = fileTerminal, int(unix.Minor(st.Rdev))
		s.files.pipes[inode{st.Dev, st.Ino}] = f.Path
	case st.Rdev == unix.Mkdev(5, 2):
		n, err := strconv.Atoi(proc.StatusField(info, "tty-index"))
		if err != nil {
			return
		}
		f.Kind, number = fileMaster, n
		s.terminals.masters[n] = len(s.job.Files)
	case st.Rdev == unix.Mkdev(5, 0):
		own, err := borrow(p.PID, fd)
		if err != nil {
			return
		}
		defer unix.Close(own)
		var device [4]byte
		if ioctl(own, unix.TIOCGDEV, device[:]) == nil && unix.Major(get64(device[:])) == ptsMajor {
			f.Kind, number = fileControlling, minorOf(get64(device[:]))
		}
	}
	s.terminals.numbers[len(s.job.Files)] = number
}

// minorOf is the minor number of a device as stat files and TIOCGDEV have it.
func minorOf(device uint64) int { return int(device&0xff | device>>12&0xfff00) }

// masterElsewhere notes that a process outside of the job has a master.
func (s *survey) masterElsewhere(pid, fd int) {
	if info, err := kernfs.ReadFile(proc.Path(pid, "fdinfo/"+strconv.Itoa(fd))); err == nil {
		if n, err := strconv.Atoi(proc.StatusField(info, "tty-index")); err == nil {
			s.terminals.outside[n] = true
		}
	}
}

// ownTerminals finds the terminals that are the group's own, and has the files of
// others go outside.
func (s *survey) ownTerminals(outside map[inode]int) {
	found := map[int]int{} // places in Terminals, by number
	for i := range s.job.Files {
		if f := &s.job.Files[i]; f.Kind == fileTerminal && outside[s.files.open[i].inode] != 0 {
			s.terminals.outside[s.terminals.numbers[i]] = true
		}
	}
	for number, i := range s.terminals.masters {
		if s.terminals.outside[number] {
			continue
		}
		o := s.files.open[i]
		t, err := readTerminal(o, number)
		if err != nil {
			s.hinder(o.pid, "descriptor "+strconv.Itoa(o.fd), "its terminal /dev/pts/%d cannot be asked: %v", number, err)
			continue
		}
		found[number] = len(s.job.Terminals)
		s.job.Terminals = append(s.job.Terminals, *t)
	}
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != fileTerminal && f.Kind != fileMaster && f.Kind != fileControlling {
			continue
		}
		at, ok := found[s.terminals.numbers[i]]
		if f.Terminal = at; !ok {
			f.Kind = fileOutside
		} else if f.Kind == fileTerminal && !sameFile(proc.Path(s.files.open[i].pid, "fd/"+strconv.Itoa(s.files.open[i].fd)), f.Path) {
			s.hinder(s.files.open[i].pid, "descriptor "+strconv.Itoa(s.files.open[i].fd), "its terminal is not at %s any more", f.Path)
		}
	}
	s.controlled(found)
}

// readTerminal reads the state of a terminal by its master.
func readTerminal(o openFile, number int) (*Terminal, error) {
	fd, err := borrow(o.pid, o.fd)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	t := &Terminal{Number: number, Settings: make([]byte, settingsSize)}
	if err := ioctl(fd, unix.TCGETS2, t.Settings); err != nil {
		return nil, err
	}
	size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return nil, err
	}
	t.Size = [4]uint16{size.Row, size.Col, size.Xpixel, size.Ypixel}
	for request, to := range map[int]*bool{unix.TIOCGPKT: &t.Packet, unix.TIOCGPTLCK: &t.Locked, unix.TIOCGEXCL: &t.Exclusive} {
		n, err := unix.IoctlGetInt(fd, uint(request))
		if err != nil {
			return nil, err
		}
		*to = n != 0
	}
	if n, err := unix.IoctlGetInt(fd, unix.TIOCGETD); err != nil || n != 0 {
		return nil, fmt.Errorf("it has the line discipline %d", n)
	}
	poll := []unix.PollFd{{Fd: int32(fd)}}
	_, _ = unix.Poll(poll, 0)
	t.Left = poll[0].Revents&unix.POLLHUP != 0
	var st unix.Stat_t
	if err := unix.Stat(t.path(), &st); err != nil {
		return nil, err
	}
	t.Mode, t.UID, t.GID = st.Mode&0o7777, int(st.Uid), int(st.Gid)
	return t, nil
}

// controlled finds the terminals that control sessions of the job.
func (s *survey) controlled(found map[int]int) {
	leads := map[int]controlling{}
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		c := s.terminals.controls[p.PID]
		if p.Session != p.PID || p.Ended != nil || c.device == 0 {
			continue
		}
		at, ok := found[minorOf(c.device)]
		if !ok || unix.Major(c.device) != ptsMajor {
			s.hinder(p.PID, "process", "it leads a session whose terminal is not the group's own")
			continue
		}
		leads[p.PID] = c
		p.Terminal = at + 1
		if slices.ContainsFunc(s.job.Processes, func(o Process) bool { return o.ProcessGroup == c.foreground && o.Session == p.PID }) {
			p.Foreground = c.foreground
		}
	}
	for _, p := range s.job.Processes {
		if c := s.terminals.controls[p.PID]; p.Session != 0 && p.Ended == nil && c.device != leads[p.Session].device && c.device != s.terminals.controls[p.Session].device {
			s.hinder(p.PID, "process", "it has another terminal than its session's leader, or none")
		}
	}
}

// errUnread is of something that waits and cannot be looked at without taking it, or
// not be sent again. Those who read it may do so, while all others stand still.
var errUnread = errors.New("what waits there can only be read by its reader, which does not")

// unreadTime is how long they have for it.
const unreadTime = 3 * time.Second

// unread looks for terminals of stopped processes in which something waits.
func (s *survey) unread() error {
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != fileMaster && f.Kind != fileTerminal && f.Kind != fileControlling {
			continue
		}
		o := s.files.open[i]
		fd, e := borrow(o.pid, o.fd)
		if e != nil {
			return e
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, _ = unix.Poll(poll, 0) // the kernel brings what is under way
		n, e := unix.IoctlGetInt(fd, unix.TIOCINQ)
		unix.Close(fd)
		if e != nil || n == 0 {
			continue
		}
		name := s.job.Terminals[f.Terminal].path()
		if f.Kind == fileMaster {
			name = "the master of " + name
		}
		s.mustRead(i, "%d bytes wait at %s", n, name)
	}
	return s.waiting
}

// mustRead notes that something waits at an open file which only those can read who
// have it open.
func (s *survey) mustRead(file int, format string, args ...any) {
	s.waiting = fmt.Errorf(format+": %w", append(args, errUnread)...)
	for _, p := range s.holdersOf(file) {
		for _, t := range p.Threads {
			s.readers = append(s.readers, t.TID)
		}
	}
}

// openTerminals makes the job's terminals. The kernel gives the lowest number that
// is free, so others are taken meanwhile to come to the ones that are wanted.
func (r *restorer) openTerminals() error {
	if len(r.job.Terminals) == 0 {
		return nil
	}
	wanted := map[int]int{}
	highest := 0
	for i, t := range r.job.Terminals {
		wanted[t.Number] = i
		highest = max(highest, t.Number)
	}
	r.masters = slices.Repeat([]int{-1}, len(r.job.Terminals))
	for left := len(wanted); left > 0; {
		fd, err := open("/dev/ptmx", unix.O_RDWR)
		if err != nil {
			return err
		}
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		at, ok := wanted[n]
		if ok && err == nil && r.masters[at] < 0 {
			r.masters[at] = fd
			left--
			continue
		}
		defer unix.Close(fd)
		if err != nil {
			return err
		}
		if n > highest {
			return fmt.Errorf("%s is taken", r.job.Terminals[slices.Index(r.masters, -1)].path())
		}
	}
	for i := range r.job.Terminals {
		if err := r.setTerminal(&r.job.Terminals[i], r.masters[i]); err != nil {
			return fmt.Errorf("%s: %w", r.job.Terminals[i].path(), err)
		}
	}
	return nil
}

// setTerminal gives a terminal its state, but for its locks.
func (r *restorer) setTerminal(t *Terminal, master int) error {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	if err := ioctl(master, unix.TCSETS2, t.Settings); err != nil {
		return err
	}
	size := unix.Winsize{Row: t.Size[0], Col: t.Size[1], Xpixel: t.Size[2], Ypixel: t.Size[3]}
	if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &size); err != nil {
		return err
	}
	if t.Packet {
		if err := unix.IoctlSetPointerInt(master, unix.TIOCPKT, 1); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(t.path(), &st); err != nil {
		return err
	}
	if st.Mode&0o7777 != t.Mode {
		if err := unix.Chmod(t.path(), t.Mode); err != nil {
			return err
		}
	}
	if int(st.Uid) != t.UID || int(st.Gid) != t.GID {
		if err := os.Lchown(t.path(), t.UID, t.GID); err != nil {
			return err
		}
	}
	if t.Left {
		fd, err := open(t.path(), unix.O_RDWR)
		if err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

// reopenTerminal opens a terminal again, or has its master.
func (r *restorer) reopenTerminal(f *File) (int, error) {
	switch f.Kind {
	case fileTerminal:
		return open(r.job.Terminals[f.Terminal].path(), f.Flags)
	case fileMaster:
		fd, err := unix.FcntlInt(uintptr(r.masters[f.Terminal]), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			err = unix.SetNonblock(fd, f.Flags&unix.O_NONBLOCK != 0)
		}
		return fd, err
	}
	return -1, nil // openControlling opens it
}

// openSessionTerminals opens the terminals that control sessions: their leaders
// may have closed them.
func (r *restorer) openSessionTerminals() error {
	r.terminalsAt = len(r.files)
	for i := range r.job.Terminals {
		fd := -1
		if r.job.controls(i) {
			var err error
			if fd, err = open(r.job.Terminals[i].path(), unix.O_RDWR); err != nil {
				return err
			}
		}
		r.files = append(r.files, fd)
	}
	return nil
}

// controls says whether a terminal controls a session, or did when it was opened.
func (j *Job) controls(terminal int) bool {
	return slices.ContainsFunc(j.Processes, func(p Process) bool { return p.Terminal == terminal+1 }) ||
		slices.ContainsFunc(j.Files, func(f File) bool { return f.Kind == fileControlling && f.Terminal == terminal })
}

func (r *restorer) terminalFD(i int) uintptr { return uintptr(r.base + r.terminalsAt + i) }

// openControlling opens /dev/tty where the job had it open, by a process whose
// terminal it is for so long.
func (r *restorer) openControlling() error {
	for i := range r.job.Files {
		f := &r.job.Files[i]
		if f.Kind != fileControlling {
			continue
		}
		err := r.briefly(r.job.Processes[0].PID, func(w *worker) error {
			terminal := r.terminalFD(f.Terminal)
			w.do("leading a session", unix.SYS_SETSID)
			w.do("taking a terminal", unix.SYS_IOCTL, terminal, unix.TIOCSCTTY, 0)
			w.expect(firstFree, "opening /dev/tty", unix.SYS_OPENAT, ^uintptr(99), w.put([]byte("/dev/tty\x00")), uintptr(f.Flags))
			w.do("giving it its number", unix.SYS_DUP3, firstFree, r.fileFD(i), 0)
			w.do("closing its other one", unix.SYS_CLOSE, firstFree)
			w.do("giving up a terminal", unix.SYS_IOCTL, terminal, unix.TIOCNOTTY, 0)
			return w.work()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// takeTerminal has the leader of a session take its terminal.
func (r *restorer) takeTerminal(w *worker, p *Process) {
	if p.Terminal != 0 {
		w.do("taking a terminal", unix.SYS_IOCTL, r.terminalFD(p.Terminal-1), unix.TIOCSCTTY, 0)
	}
}

// bringForward puts process groups in the foreground of their terminals, and locks
// terminals again.
func (r *restorer) bringForward() error {
	for i := range r.job.Processes {
		p := &r.job.Processes[i]
		if p.Foreground == 0 {
			continue
		}
		w := r.byPID[p.PID]
		group := make([]byte, 4)
		put64Part(group, uint32(p.Foreground))
		w.do("bringing a process group to the foreground", unix.SYS_IOCTL, r.terminalFD(p.Terminal-1), unix.TIOCSPGRP, w.put(group))
		if err := w.work(); err != nil {
			return err
		}
	}
	for i, t := range r.job.Terminals {
		if t.Locked {
			if err := unix.IoctlSetPointerInt(r.masters[i], unix.TIOCSPTLCK, 1); err != nil {
				return err
			}
		}
		if t.Exclusive {
			if err := ioctl(r.masters[i], unix.TIOCEXCL, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTerminals says what is wrong with the terminals of an image.
func (j *Job) checkTerminals() error {
	numbers := map[int]bool{}
	masters := make([]int, len(j.Terminals))
	for _, t := range j.Terminals {
		if t.Number < 0 || t.Number > maxTerminal || numbers[t.Number] || len(t.Settings) != settingsSize || t.Mode > 0o7777 || t.UID < 0 || t.GID < 0 {
			return damaged("the terminal %d cannot be", t.Number)
		}
		numbers[t.Number] = true
	}
	for i, f := range j.Files {
		if f.Terminal < 0 || f.Terminal > 0 && f.Terminal >= len(j.Terminals) {
			return damaged("file %d is of no terminal", i)
		}
		switch f.Kind {
		case fileMaster, fileTerminal, fileControlling:
			if f.Terminal >= len(j.Terminals) {
				return damaged("file %d is of no terminal", i)
			}
			if f.Kind == fileMaster {
				masters[f.Terminal]++
			}
		}
	}
	if slices.ContainsFunc(masters, func(n int) bool { return n != 1 }) {
		return damaged("a terminal must have one master")
	}
	controls := map[int]bool{}
	for _, p := range j.Processes {
		if p.Terminal < 0 || p.Terminal > len(j.Terminals) || p.Terminal != 0 && (p.Session != p.PID || p.Ended != nil || controls[p.Terminal]) ||
			p.Foreground != 0 && (p.Terminal == 0 || !slices.ContainsFunc(j.Processes, func(o Process) bool { return o.ProcessGroup == p.Foreground && o.Session == p.PID })) {
			return damaged("process %d cannot have its terminal", p.PID)
		}
		controls[p.Terminal] = p.Terminal != 0
	}
	return nil
}

// isMaster says whether the target of a descriptor's link makes terminals.
func isMaster(link string) bool { return strings.HasSuffix(link, "/ptmx") }
