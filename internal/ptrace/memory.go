package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// Peek fills buf from the memory of a tracee, or of any task that the caller
// may trace. The error is EIO when not all of it is mapped.
func Peek(tid int, addr uintptr, buf []byte) error {
	return transfer(tid, unix.O_RDONLY, func(fd int, done int) (int, error) {
		return unix.Pread(fd, buf[done:], int64(addr)+int64(done))
	}, len(buf))
}

// Poke writes into the memory of a stopped tracee, also where it may not write
// itself: such a page is then its own copy.
func Poke(tid int, addr uintptr, data []byte) error {
	if OnCall != nil {
		OnCall(true)
		defer OnCall(false)
	}
	return transfer(tid, unix.O_WRONLY, func(fd int, done int) (int, error) {
		return unix.Pwrite(fd, data[done:], int64(addr)+int64(done))
	}, len(data))
}

func transfer(tid, flag int, move func(fd, done int) (int, error), size int) error {
	fd, err := unix.Open(proc.Path(tid, "mem"), flag|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for done := 0; done < size; {
		n, err := move(fd, done)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return unix.EIO
		default:
			done += n
		}
	}
	return nil
}
