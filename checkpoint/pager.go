package checkpoint

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A pager gives pages to a process that has none yet, through a userfaultfd of the
// process's own (see userfaultfd(2)). That is faster than to write into its memory,
// where each page would first be found missing, and made of zeros: it takes 140 ms
// for 512 MiB, and not 215.
type pager struct {
	fd     int
	theirs int // the process's own number of it
	starts map[uint64]bool
}

// pagedSize is how long a mapping is that is worth a pager.
const pagedSize = 1 << 20

// The userfaultfd's requests; see linux/userfaultfd.h.
const (
	uffdAPI         = 0xc018aa3f
	uffdRegister    = 0xc020aa00
	uffdCopy        = 0xc028aa03
	uffdVersion     = 0xaa
	uffdMissing     = 1
	uffdDontWake    = 1
	uffdCopyAllowed = 1 << 3
)

// newPager has a worker make a pager of its longer private mappings. It is nil where
// there are none, or where the kernel has none to give, and that is no error.
func newPager(w *worker, mappings []Mapping) (*pager, error) {
	var long []Mapping
	for _, m := range mappings {
		if m.Kind == kindPrivate && m.End-m.Start >= pagedSize && !m.usesHugePages() && m.Flags&unix.MAP_GROWSDOWN == 0 {
			long = append(long, m)
		}
	}
	if len(long) == 0 {
		return nil, nil
	}
	p := &pager{fd: -1, theirs: -1, starts: map[uint64]bool{}}
	w.calls = append(w.calls, call{"userfaultfd", unix.SYS_USERFAULTFD, []uintptr{unix.O_CLOEXEC | unix.O_NONBLOCK}, func(n int) bool {
		p.theirs = n
		return true
	}})
	if w.work() != nil {
		return nil, nil
	}
	pidfd, err := unix.PidfdOpen(w.pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	if p.fd, err = unix.PidfdGetfd(pidfd, p.theirs, 0); err != nil {
		return nil, err
	}
	api := [3]uint64{uffdVersion}
	if err := p.ioctl(uffdAPI, unsafe.Pointer(&api)); err != nil {
		return p, fmt.Errorf("userfaultfd: %w", err)
	}
	for _, m := range long {
		register := [4]uint64{m.Start, m.End - m.Start, uffdMissing}
		p.starts[m.Start] = p.ioctl(uffdRegister, unsafe.Pointer(&register)) == nil && register[3]&uffdCopyAllowed != 0
	}
	w.do("closing its userfaultfd", unix.SYS_CLOSE, uintptr(p.theirs))
	return p, w.work()
}

func (p *pager) ioctl(request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), request, uintptr(arg))
	return number(errno)
}

// has says whether a mapping's pages come through the pager.
func (p *pager) has(m *Mapping) bool { return p != nil && p.starts[m.Start] }

// fill gives pages. Where the process has one already it is written, by its mem
// file.
func (p *pager) fill(mem int, at uint64, b []byte) error {
	for len(b) > 0 {
		arg := [5]uint64{at, uint64(uintptr(unsafe.Pointer(&b[0]))), uint64(len(b)), uffdDontWake}
		err := p.ioctl(uffdCopy, unsafe.Pointer(&arg))
		done := int64(arg[4])
		switch {
		case err == nil:
			return nil
		case err == unix.EEXIST:
			return writeMemory(0, mem, at, b)
		case err != unix.EAGAIN && err != unix.EINTR:
			return err
		}
		if done > 0 {
			at, b = at+uint64(done), b[done:]
		}
	}
	return nil
}

// close ends it: what the process has not it makes itself.
func (p *pager) close() {
	if p != nil && p.fd >= 0 {
		unix.Close(p.fd)
	}
}
