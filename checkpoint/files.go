package checkpoint

import (
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A fileTable finds out which descriptors are the same open file.
type fileTable struct {
	open   []openFile // in the order of Job.Files
	byLook map[string][]int
	pipes  map[inode]string // and sockets and terminals: their links
}

// An openFile is where an open file was first seen.
type openFile struct {
	pid, fd int
	inode   inode
	link    string
}

// descriptors looks at the descriptors of a process.
func (s *survey) descriptors(p *Process) {
	for _, fd := range fdsOf(p.PID) {
		s.descriptor(p, fd)
	}
}

func fdsOf(pid int) (fds []int) {
	dir, err := os.Open(proc.Path(pid, "fd"))
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil {
			fds = append(fds, fd)
		}
	}
	slices.Sort(fds)
	return fds
}

func (s *survey) descriptor(p *Process, fd int) {
	where := "descriptor " + strconv.Itoa(fd)
	path := proc.Path(p.PID, "fd/"+strconv.Itoa(fd))
	link, err := os.Readlink(path)
	var st unix.Stat_t
	if err == nil {
		err = unix.Stat(path, &st)
	}
	info, ierr := kernfs.ReadFile(proc.Path(p.PID, "fdinfo/"+strconv.Itoa(fd)))
	if err != nil || ierr != nil {
		return // it was closed meanwhile
	}
	if leased(info) {
		s.hinder(p.PID, where, "it has a lease (F_SETLEASE) on %s", link)
		return
	}
	text := func(field string) string { return proc.StatusField(info, field) }
	flags64, _ := strconv.ParseInt(text("flags"), 8, 64)
	flags := int(flags64)
	d := Descriptor{FD: fd, CloseOnExec: flags&unix.O_CLOEXEC != 0}
	flags &^= unix.O_CLOEXEC
	look := fmt.Sprint(st.Dev, st.Ino, flags, link)
	for _, i := range s.files.byLook[look] {
		seen := s.files.open[i]
		if kcmp(seen.pid, p.PID, kcmpFile, seen.fd, fd) == 0 {
			d.File = i
			s.locks(p, d, where, info, true)
			p.Descriptors = append(p.Descriptors, d)
			return
		}
	}
	f := File{Flags: flags}
	f.Offset, _ = strconv.ParseInt(text("pos"), 10, 64)
	if flags&unix.O_ASYNC != 0 {
		f.Owner = s.owner(p, fd, where)
	}
	s.open(p, fd, where, link, &st, info, &f)
	d.File = len(s.job.Files)
	s.locks(p, d, where, info, false)
	if s.files.byLook == nil {
		s.files.byLook = map[string][]int{}
	}
	s.files.byLook[look] = append(s.files.byLook[look], d.File)
	s.files.open = append(s.files.open, openFile{p.PID, fd, inode{st.Dev, st.Ino}, link})
	s.job.Files = append(s.job.Files, f)
	p.Descriptors = append(p.Descriptors, d)
}

// statelessDevices have no state besides what a descriptor has of each file.
var statelessDevices = map[uint64]bool{
	unix.Mkdev(1, 3): true, // null
	unix.Mkdev(1, 5): true, // zero
	unix.Mkdev(1, 7): true, // full
	unix.Mkdev(1, 8): true, // random
	unix.Mkdev(1, 9): true, // urandom
}

// open finds out what an open file is.
func (s *survey) open(p *Process, fd int, where, link string, st *unix.Stat_t, info []byte, f *File) {
	hinder := func(format string, args ...any) { s.hinder(p.PID, where, format, args...) }
	path := proc.Path(p.PID, "fd/"+strconv.Itoa(fd))
	text := func(field string) string { return proc.StatusField(info, field) }
	number := func(field string, base int) uint64 {
		n, _ := strconv.ParseUint(strings.TrimPrefix(text(field), "0x"), base, 64)
		return n
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		name := nameOf(path, link)
		if name != "" {
			link = name
		}
		f.Kind, f.Path = fileRegular, link
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			f.Kind = fileDirectory
		}
		switch {
		case name == "" && strings.HasSuffix(link, deletedSuffix):
			f.Kind, f.Path = fileOfImage, strings.TrimSuffix(link, deletedSuffix)
			f.Shared = s.contents(p.PID, where, path)
		case name == "":
			hinder("its file was replaced: %s", link)
		case isKernelFile(link):
			f.Kind = fileControl
			if f.Flags&unix.O_ACCMODE == unix.O_RDONLY && (isControlFile(link) || isOfHost(link)) {
				break // Go's runtime reads the limits of its cgroup, top what the host does
			}
			hinder("it is a file of the kernel's: %s", link)
		}
		f.Size, f.Mtime = st.Size, time.Unix(st.Mtim.Unix())
		if f.Kind == fileRegular {
			f.Tail = tailOf(link, f.Size)
		}
	case unix.S_IFCHR:
		f.Kind, f.Path = fileDevice, link
		switch {
		case statelessDevices[st.Rdev]:
		case isTerminal(st.Rdev):
			s.terminal(p, fd, st, info, f)
		default:
			hinder("it is a device: %s", link)
		}
	case unix.S_IFIFO:
		f.Kind = filePipe
		if strings.HasPrefix(link, "/") {
			if f.Path = nameOf(path, link); f.Path == "" {
				hinder("its named pipe was deleted or replaced: %s", link)
			}
		}
		s.files.pipes[inode{st.Dev, st.Ino}] = link
		if f.Pipe = st.Ino; f.Path != "" {
			f.Pipe ^= st.Dev << 32 // it could be the number of a pipe without a name, too
		}
	case unix.S_IFSOCK:
		s.socket(p, fd, where, st, info, f)
	default:
		f.Kind = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(link, "anon_inode:"), "["), "]")
		switch f.Kind {
		case fileEvent:
			f.Count = number("eventfd-count", 16)
			if text("eventfd-semaphore") == "1" {
				f.Mask = 1
			}
		case "eventpoll":
			f.Kind = filePoll
			s.watches(p, where, info, f)
		case fileInotify:
			s.inotify(p, fd, where, info, f)
		case fileSignal:
			f.Mask = number("sigmask", 16)
		case fileTimer:
			f.Clock = int(number("clockid", 10))
			f.Count = number("ticks", 10)
			f.Timer = Timer{}
			interval, value := text("it_interval"), text("it_value")
			_, err1 := fmt.Sscanf(interval, "(%d, %d)", &f.Timer[0], &f.Timer[1])
			_, err2 := fmt.Sscanf(value, "(%d, %d)", &f.Timer[2], &f.Timer[3])
			if err1 != nil || err2 != nil || number("settime flags", 8)&^1 != 0 {
				hinder("it is a timerfd that cannot be read")
			}
		default:
			hinder("it is of %s", f.Kind)
		}
	}
	f.Flags &= unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_DIRECT | unix.O_NOATIME | unix.O_SYNC | unix.O_DSYNC | unix.O_PATH | unix.O_DIRECTORY
}

// tailOf is a checksum of the last bytes of the first size bytes of a file.
func tailOf(path string, size int64) uint32 {
	file, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer file.Close()
	b := make([]byte, min(size, 16<<10))
	if _, err := file.ReadAt(b, size-int64(len(b))); err != nil {
		return 0
	}
	return crc32.Checksum(b, castagnoli())
}

// isControlFile says whether a path leads to a file of a cgroup.
func isControlFile(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && (fs.Type == unix.CGROUP_SUPER_MAGIC || fs.Type == unix.CGROUP2_SUPER_MAGIC)
}

// isOfHost says whether a path leads to what /proc tells of the host, and not of a
// process.
func isOfHost(path string) bool {
	below, ok := strings.CutPrefix(path+"/", "/proc/")
	return ok && !strings.HasPrefix(below, "kmsg/") && (below == "" || below[0] < '0' || below[0] > '9')
}

// isKernelFile says whether a path leads to a file that the kernel makes up, as
// /proc has them.
func isKernelFile(path string) bool {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return false
	}
	switch fs.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.NSFS_MAGIC:
		return true
	}
	return false
}

// outside looks at terminals, pipes and sockets that belong to others. As a
// standard stream one can be replaced by the restore, else not.
func (s *survey) outside() {
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != fileOutside {
			continue
		}
		first, at := s.lowest(i)
		f.Path, f.Stream = "", at
		o := Obstacle{PID: first.PID, Command: first.Command, Where: "descriptor " + strconv.Itoa(at), What: "it goes outside of the group: " + s.files.open[i].link}
		if at <= 2 {
			o.Option = streams[at] + " FILE"
		} else {
			f.Stream = 0
		}
		s.obstacles = append(s.obstacles, o)
	}
}

// streams are the options of restore by the numbers of the standard streams.
var streams = [...]string{"--stdin", "--stdout", "--stderr"}

// lowest finds the lowest descriptor of an open file.
func (s *survey) lowest(file int) (in *Process, fd int) {
	fd = maxFD + 1
	for i := range s.job.Processes {
		for _, d := range s.job.Processes[i].Descriptors {
			if d.File == file && d.FD < fd {
				in, fd = &s.job.Processes[i], d.FD
			}
		}
	}
	return in, fd
}

// watches reads what an epoll waits for.
func (s *survey) watches(p *Process, where string, info []byte, f *File) {
	for line := range strings.Lines(string(info)) {
		var w Watch
		var pos int64
		var ino, dev uint64
		n, _ := fmt.Sscanf(line, "tfd: %d events: %x data: %x pos:%d ino:%x sdev:%x", &w.FD, &w.Events, &w.Data, &pos, &ino, &dev)
		if n == 0 {
			continue
		}
		var st unix.Stat_t
		if n < 6 || unix.Stat(proc.Path(p.PID, "fd/"+strconv.Itoa(w.FD)), &st) != nil || st.Ino != ino {
			s.hinder(p.PID, where, "it is an epoll that waits for a file which is not descriptor %d any more", w.FD)
			continue
		}
		f.Watch = append(f.Watch, w)
	}
}

// finish looks at what needs all processes to be known.
func (t *fileTable) finish(s *survey) {
	outside := s.outsiders()
	for i := range s.job.Files {
		if f := &s.job.Files[i]; (f.Kind == filePipe || f.Kind == fileSocket) && outside[t.open[i].inode] != 0 {
			f.Kind, f.Pipe, f.Socket = fileOutside, 0, nil
		}
	}
	s.sharedOutside(outside)
	s.owned()
	s.keepMemory(outside)
	s.sockets()
	s.ownTerminals(outside)
	s.outside()
}
