package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openFiles opens all that the job has open. The first process gets it all, with
// numbers that no process of the job uses.
func (r *restorer) openFiles() error {
	for _, p := range r.job.Processes {
		for _, d := range p.Descriptors {
			r.base = max(r.base, d.FD+1)
		}
	}
	r.base = max(r.base, 3)
	if err := r.openTerminals(); err != nil {
		return err
	}
	if err := r.makeConnections(); err != nil {
		return err
	}
	if err := r.makeContents(); err != nil {
		return err
	}
	pipes := map[uint64]*[2]int{}
	defer func() {
		for _, ends := range pipes {
			unix.Close(ends[0])
			unix.Close(ends[1])
		}
	}()
	for i := range r.job.Files {
		f := &r.job.Files[i]
		opened, err := r.reopen(f, pipes)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name(), err)
		}
		r.files = append(r.files, opened)
	}
	r.mappedAt = len(r.files)
	for _, m := range r.job.Mapped {
		flag := unix.O_RDONLY
		if m.Write {
			flag = unix.O_RDWR
		}
		var opened int
		var err error
		if m.Contents != nil {
			opened, err = r.reopenContents(*m.Contents, flag, 0)
		} else {
			opened, err = open(m.Path, flag)
		}
		if err != nil {
			return err
		}
		r.files = append(r.files, opened)
	}
	r.placesAt = len(r.files)
	for i := range r.job.Processes {
		dir := r.job.Processes[i].Directory
		if r.job.Processes[i].Ended != nil {
			dir = "/"
		}
		opened, err := open(dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		r.files = append(r.files, opened)
	}
	if err := r.openSessionTerminals(); err != nil {
		return err
	}
	return r.openHidden()
}

func (f *File) name() string {
	if f.Path != "" {
		return f.Path
	}
	return f.Kind
}

// closeFiles gives back what the job has now.
func (r *restorer) closeFiles() {
	for _, f := range slices.Concat(r.files, r.masters, slices.Collect(maps.Values(r.connections))) {
		if f >= 0 {
			unix.Close(f)
		}
	}
}

// open opens a file, and never makes one. Descriptors are plain numbers here: an
// os.File would make them blocking.
func open(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// reopen makes one open file again.
func (r *restorer) reopen(f *File, pipes map[uint64]*[2]int) (int, error) {
	nonblock := f.Flags & unix.O_NONBLOCK
	switch f.Kind {
	case fileRegular, fileDirectory, fileControl:
		return r.reopenFile(f)
	case fileDevice:
		opened, err := open(f.Path, f.Flags)
		if err != nil {
			return -1, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(opened, &st); err != nil || !statelessDevices[st.Rdev] || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			unix.Close(opened)
			return -1, errors.New("it is another device now")
		}
		return opened, nil
	case fileOfImage:
		return r.reopenContents(f.Shared, f.Flags, f.Offset)
	case filePipe:
		return r.reopenPipe(f, pipes)
	case fileEvent:
		flags := nonblock | unix.EFD_CLOEXEC
		if f.Mask == 1 {
			flags |= unix.EFD_SEMAPHORE
		}
		file, err := unix.Eventfd(0, flags)
		if err == nil && f.Count > 0 {
			var count [8]byte
			put64(count[:], f.Count)
			_, err = unix.Write(file, count[:])
		}
		return file, err
	case filePoll:
		return unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	case fileInotify:
		return unix.InotifyInit1(nonblock | unix.IN_CLOEXEC)
	case fileSignal:
		var set unix.Sigset_t
		set.Val[0] = f.Mask
		return unix.Signalfd(-1, &set, nonblock|unix.SFD_CLOEXEC)
	case fileTimer:
		return reopenTimer(f, nonblock)
	case fileTerminal, fileMaster, fileControlling:
		return r.reopenTerminal(f)
	case fileSocket:
		if fd, ok := r.connections[f.Socket.ID]; ok {
			delete(r.connections, f.Socket.ID)
			return fd, nil
		}
		if f.Socket.inet() {
			return reopenInet(f.Socket)
		}
		return -1, nil // makeSockets makes it
	case fileOutside:
		return unix.FcntlInt(r.options.Streams[f.Stream].Fd(), unix.F_DUPFD_CLOEXEC, 3)
	}
	return -1, damaged("%q is no kind of file", f.Kind)
}

// reopenFile opens a file or directory, and makes sure that it is what it was, as
// far as the options want it.
func (r *restorer) reopenFile(f *File) (int, error) {
	opened, err := open(f.Path, f.Flags)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(opened, &st); err != nil {
		return -1, err
	}
	if f.Kind == fileRegular {
		err = r.options.Files.compare(f, &st)
	}
	if err == nil && f.Flags&unix.O_PATH == 0 && f.Offset != 0 {
		_, err = unix.Seek(opened, f.Offset, unix.SEEK_SET)
	}
	if err != nil {
		unix.Close(opened)
		return -1, err
	}
	return opened, nil
}

// reopenTimer makes a timerfd with what was left of its time.
func reopenTimer(f *File, nonblock int) (int, error) {
	fd, err := unix.TimerfdCreate(f.Clock, nonblock|unix.TFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	if f.Timer != (Timer{}) {
		spec := unix.ItimerSpec{
			Interval: unix.Timespec{Sec: f.Timer[0], Nsec: f.Timer[1]},
			Value:    unix.Timespec{Sec: f.Timer[2], Nsec: f.Timer[3]},
		}
		if err := unix.TimerfdSettime(fd, 0, &spec, nil); err != nil {
			return -1, err
		}
	}
	if f.Count > 0 {
		const setTicks = 0x40085400 // TFD_IOC_SET_TICKS
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), setTicks, uintptr(unsafe.Pointer(&f.Count))); errno != 0 {
			return -1, errno
		}
	}
	return fd, nil
}
