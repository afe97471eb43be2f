// Package kernfs reads and writes the small control files of cgroup
// directories with as few system calls as possible.
//
// os.File is not used: it registers each descriptor with the runtime's poller
// and allocates, which is as dear as the whole operation here (a thaw takes
// 11 µs, an open and close 8 µs).
package kernfs

import (
	"errors"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A File is one control file, opened at its first use and kept open. When the
// group behind it has been removed and made again, the open descriptor is dead
// (ENODEV); the file is then opened anew, once. All methods may be called
// concurrently. The zero value is not usable; see New.
type File struct {
	path string
	flag int

	mu sync.RWMutex
	fd *descriptor
}

// descriptor is closed by Close or, when its File was dropped, by the garbage
// collector.
type descriptor struct {
	n       int
	cleanup runtime.Cleanup
}

// New names the file at path, to be opened with flag (unix.O_RDONLY, O_WRONLY
// or O_RDWR). No system call is made yet.
func New(path string, flag int) *File { return &File{path: path, flag: flag} }

// Path is the file's path.
func (f *File) Path() string { return f.path }

// Close gives the descriptor back. The File can be used again afterwards.
func (f *File) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop()
}

func (f *File) drop() {
	if f.fd == nil {
		return
	}
	f.fd.cleanup.Stop()
	_ = unix.Close(f.fd.n)
	f.fd = nil
}

// Open makes sure that the file is open. Its error is the errno of open(2).
func (f *File) Open() error {
	f.mu.RLock()
	open := f.fd != nil
	f.mu.RUnlock()
	if open {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd != nil {
		return nil
	}
	n, err := open2(f.path, f.flag)
	if err != nil {
		return err
	}
	d := &descriptor{n: n}
	d.cleanup = runtime.AddCleanup(d, func(n int) { _ = unix.Close(n) }, n)
	f.fd = d
	return nil
}

func open2(path string, flag int) (int, error) {
	for {
		n, err := unix.Open(path, flag|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// Use calls do with the open descriptor. When do returns ENODEV, the file is
// opened again by its path and do is called once more; when the path is gone
// too, the error is ENOENT.
func (f *File) Use(do func(fd int) error) error {
	for try := 0; ; try++ {
		if err := f.Open(); err != nil {
			return err
		}
		f.mu.RLock()
		d := f.fd
		if d == nil { // closed meanwhile
			f.mu.RUnlock()
			continue
		}
		err := do(d.n)
		f.mu.RUnlock()
		if !errors.Is(err, unix.ENODEV) {
			return err
		}
		f.Close()
		if try > 0 {
			return unix.ENOENT
		}
	}
}

// ReadInto reads the file from its beginning into buf with one system call and
// returns what was read.
func (f *File) ReadInto(buf []byte) (out []byte, err error) {
	err = f.Use(func(fd int) error {
		n, err := pread(fd, buf, 0)
		out = buf[:n]
		return err
	})
	return out, err
}

func pread(fd int, buf []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, buf, off)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Write writes text with one system call.
func (f *File) Write(text string) error {
	return f.Use(func(fd int) error { return pwrite(fd, text) })
}

func pwrite(fd int, text string) error {
	for {
		_, err := unix.Pwrite(fd, []byte(text), 0)
		if err != unix.EINTR {
			return err
		}
	}
}

// ReadFile reads the whole of a file that is not kept open.
func ReadFile(path string) ([]byte, error) {
	fd, err := open2(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := read(fd, buf[len(buf):cap(buf)])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
	}
}

func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// WriteFile writes text, with one system call, to a file that is not kept open.
func WriteFile(path, text string) error {
	fd, err := open2(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return pwrite(fd, text)
}

// ParseIDs reads the one-number-a-line form of cgroup.procs, cgroup.threads
// and tasks. Zeros (processes that the reader's PID namespace does not know)
// and lines that are no number are left out.
func ParseIDs(text []byte) []int {
	var ids []int
	n, ok := 0, false
	for _, c := range text {
		switch {
		case c >= '0' && c <= '9' && n < 1<<31:
			n, ok = n*10+int(c-'0'), true
		case c == '\n':
			if ok && n > 0 {
				ids = append(ids, n)
			}
			n, ok = 0, false
		default:
			n, ok = 1<<31, false
		}
	}
	if ok && n > 0 && n < 1<<31 {
		ids = append(ids, n)
	}
	return ids
}
