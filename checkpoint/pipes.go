package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// readPipes copies what is in the pipes of stopped processes, and leaves it there.
// The first of a pipe's ends gets it.
func (s *survey) readPipes() {
	seen := map[uint64]bool{}
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != filePipe || seen[f.Pipe] || f.Flags&unix.O_PATH != 0 {
			continue
		}
		seen[f.Pipe] = true
		reader, packets := i, false
		for k, end := range s.job.Files {
			if end.Kind == filePipe && end.Pipe == f.Pipe && end.Flags&unix.O_PATH == 0 {
				packets = packets || end.Flags&unix.O_DIRECT != 0
				if end.Flags&unix.O_ACCMODE != unix.O_WRONLY {
					reader = k
				}
			}
		}
		o := s.files.open[reader]
		if err := readPipe(o, f, packets); err != nil {
			s.hinder(o.pid, "descriptor "+strconv.Itoa(o.fd), "the data in its pipe cannot be read: %v", err)
		}
	}
}

// descriptorOf gets a descriptor of another process, as it is. To open it anew
// through /proc would wake who waits for a named pipe to be opened.
func descriptorOf(pid, fd int) (int, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, fd, 0)
}

// readPipe copies what is in a pipe: by an end to read from, if the job has one.
func readPipe(o openFile, f *File, packets bool) error {
	fd, err := descriptorOf(o.pid, o.fd)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if f.Room, err = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err != nil {
		return err
	}
	waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil || waiting == 0 {
		return err
	}
	var copyOf [2]int
	if err := unix.Pipe2(copyOf[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	defer unix.Close(copyOf[0])
	defer unix.Close(copyOf[1])
	if _, err := unix.FcntlInt(uintptr(copyOf[1]), unix.F_SETPIPE_SZ, f.Room); err != nil {
		return err
	}
	n, err := unix.Tee(fd, copyOf[1], f.Room, unix.SPLICE_F_NONBLOCK)
	if err == unix.EBADF {
		return errors.New("nobody in the group has it open to read from it")
	}
	if err != nil {
		return err
	}
	if int(n) != waiting {
		return fmt.Errorf("it has %d bytes, and %d were read", waiting, n)
	}
	f.Data = make([]byte, n)
	for done := 0; done < len(f.Data); {
		n, err := unix.Read(copyOf[0], f.Data[done:])
		if err != nil {
			return err
		}
		done += n
		if packets { // each read gives one
			f.Packets = append(f.Packets, n)
		}
	}
	return nil
}

// reopenPipe makes a pipe, or opens a named one, when the first of its ends is
// wanted, and puts its data into it. Further open files of an end are opened
// through /proc.
func (r *restorer) reopenPipe(f *File, pipes map[uint64]*[2]int) (int, error) {
	ends := pipes[f.Pipe]
	if ends == nil {
		fds, err := r.makePipe(f)
		if err != nil {
			return -1, err
		}
		ends = &fds
		pipes[f.Pipe] = ends
		if err := f.refill(ends[1]); err != nil {
			return -1, err
		}
	}
	opened, err := open("/proc/self/fd/"+strconv.Itoa(ends[0]), f.Flags&^unix.O_DIRECT)
	if err == nil && f.Flags&unix.O_DIRECT != 0 { // which open does not know of pipes
		_, err = unix.FcntlInt(uintptr(opened), unix.F_SETFL, f.Flags)
	}
	return opened, err
}

// makePipe returns the two ends of an empty pipe, which are one of a named pipe.
func (r *restorer) makePipe(f *File) (ends [2]int, err error) {
	if f.Path == "" {
		return ends, unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
	}
	// A reader who finds no writer is not told that one has left (POLLHUP): so there
	// is one only when the job has one, or data.
	mode := unix.O_RDONLY
	if slices.ContainsFunc(r.job.Files, func(end File) bool {
		return end.Kind == filePipe && end.Pipe == f.Pipe && (end.Flags&unix.O_ACCMODE != unix.O_RDONLY || len(end.Data) > 0)
	}) {
		mode = unix.O_RDWR
	}
	fd, err := open(f.Path, mode|unix.O_NONBLOCK)
	if err != nil {
		return ends, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
		err = errors.New("it is no named pipe any more")
	}
	var waiting int
	if err == nil {
		if waiting, err = unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil && waiting > 0 {
			err = fmt.Errorf("others have put %d bytes into it", waiting)
		}
	}
	if err == nil {
		ends[0] = fd
		ends[1], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		unix.Close(fd)
	}
	return ends, err
}

// refill gives a pipe its size and its data.
func (f *File) refill(fd int) error {
	if f.Room > 0 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, f.Room); err != nil {
			return err
		}
	}
	data, packets := f.Data, f.Packets
	if packets != nil {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK|unix.O_DIRECT); err != nil {
			return err
		}
	}
	for len(data) > 0 {
		part := data
		if len(packets) > 0 {
			part, packets = data[:packets[0]], packets[1:]
		}
		n, err := unix.Write(fd, part)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// checkPipe says whether the packets of a pipe are what it has.
func (f *File) checkPipe() bool {
	if f.Packets == nil {
		return true
	}
	left := len(f.Data)
	for _, n := range f.Packets {
		if n <= 0 || n > left {
			return false
		}
		left -= n
	}
	return left == 0
}
