// Package kernfs reads and writes the small control files of cgroup
// directories with as few system calls as possible.
//
// os.File is not used: it registers each descriptor with the runtime's poller
// and allocates, which is as dear as the whole operation here (a thaw takes
// 11 µs, an open and close 8 µs).
package kernfs

import (
	"bytes"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A Dir is one group's directory with the control files in it that are in use.
// All are opened when first needed, relative to the directory, and kept open:
// so they belong to one and the same group, even when it is removed meanwhile
// and another is made under its name. Then they give ENODEV; Close makes the
// next use open the new ones.
//
// All methods, also those of its Files, may be called concurrently. Descriptors
// are given back by Close or by the garbage collector.
type Dir struct {
	path string

	mu    sync.RWMutex
	self  *descriptor
	files []*File
}

// A File is one control file of a Dir.
type File struct {
	dir  *Dir
	name string
	flag int
	fd   *descriptor // guarded by dir.mu
}

type descriptor struct {
	n       int
	cleanup runtime.Cleanup
}

// NewDir names a directory. No system call is made yet.
func NewDir(path string) *Dir { return &Dir{path: path} }

// Path is the directory's path.
func (d *Dir) Path() string { return d.path }

// File names a file in the directory, to be opened with flag (unix.O_RDONLY,
// O_WRONLY or O_RDWR). It is to be called before the Dir is shared.
func (d *Dir) File(name string, flag int) *File {
	f := &File{dir: d, name: name, flag: flag}
	d.files = append(d.files, f)
	return f
}

// Close gives all descriptors back. Everything can be used again afterwards.
func (d *Dir) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.self.close()
	d.self = nil
	for _, f := range d.files {
		f.fd.close()
		f.fd = nil
	}
}

func (fd *descriptor) close() {
	if fd != nil {
		fd.cleanup.Stop()
		_ = unix.Close(fd.n)
	}
}

func newDescriptor(at int, path string, flag int) (*descriptor, error) {
	n, err := openat(at, path, flag)
	if err != nil {
		return nil, err
	}
	d := &descriptor{n: n}
	d.cleanup = runtime.AddCleanup(d, func(n int) { _ = unix.Close(n) }, n)
	return d, nil
}

// open opens the directory, and f unless that is nil. The caller holds mu.
func (d *Dir) open(f *File) (err error) {
	if d.self == nil {
		if d.self, err = newDescriptor(unix.AT_FDCWD, d.path, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			return err
		}
	}
	if f != nil && f.fd == nil {
		f.fd, err = newDescriptor(d.self.n, f.name, f.flag)
	}
	return err
}

// use calls do with the descriptor of f, or of the directory when f is nil.
func (d *Dir) use(f *File, do func(fd int) error) error {
	for {
		d.mu.RLock()
		fd := d.self
		if f != nil {
			fd = f.fd
		}
		if fd != nil {
			err := do(fd.n)
			d.mu.RUnlock()
			return err
		}
		d.mu.RUnlock()
		d.mu.Lock()
		err := d.open(f)
		d.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// Use calls do with the directory's descriptor.
func (d *Dir) Use(do func(fd int) error) error { return d.use(nil, do) }

// Open makes sure that files of the directory are open. Its error is the errno of
// open(2).
func (d *Dir) Open(files ...*File) error {
	d.mu.RLock()
	all := !slices.ContainsFunc(files, func(f *File) bool { return f.fd == nil })
	d.mu.RUnlock()
	if all {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range files {
		if err := d.open(f); err != nil {
			return err
		}
	}
	return nil
}

// Path is the file's path.
func (f *File) Path() string { return f.dir.path + "/" + f.name }

// Use calls do with the file's descriptor.
func (f *File) Use(do func(fd int) error) error { return f.dir.use(f, do) }

// ReadInto reads the file from its beginning into buf with one system call and
// returns what was read. A file that is not ours to write can be read all the
// same, whatever its flag.
func (f *File) ReadInto(buf []byte) (out []byte, err error) {
	err = f.Use(func(fd int) error {
		n, err := pread(fd, buf, 0)
		out = buf[:n]
		return err
	})
	if (err == unix.EACCES || err == unix.EROFS) && f.flag == unix.O_RDWR {
		return f.dir.ReadFile(f.name)
	}
	return out, err
}

// ReadAll reads the whole of a list.
func (f *File) ReadAll() (text []byte, err error) {
	err = f.Use(func(fd int) error {
		var page [4096]byte // on the stack, as in ReadFileAt
		for {
			n, err := pread(fd, page[:], int64(len(text)))
			if n == 0 || err != nil {
				return err
			}
			text = append(text, page[:n]...)
		}
	})
	return text, err
}

// Write writes text with one system call.
func (f *File) Write(text string) error {
	return f.Use(func(fd int) error { return pwrite(fd, text) })
}

func pread(fd int, buf []byte, off int64) (int, error) {
	for {
		n, err := unix.Pread(fd, buf, off)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func pwrite(fd int, text string) error {
	for {
		_, err := unix.Pwrite(fd, []byte(text), 0)
		if err != unix.EINTR {
			return err
		}
	}
}

func openat(at int, path string, flag int) (int, error) {
	for {
		n, err := unix.Openat(at, path, flag|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// ReadFile reads the whole of a file of the directory that is not kept open.
func (d *Dir) ReadFile(name string) (text []byte, err error) {
	err = d.Use(func(fd int) (err error) {
		text, err = ReadFileAt(fd, name)
		return err
	})
	return text, err
}

// ReadFile reads the whole of a file that is not kept open.
func ReadFile(path string) ([]byte, error) { return ReadFileAt(unix.AT_FDCWD, path) }

// ReadFileAt is ReadFile for a path that begins at the directory of descriptor at.
func ReadFileAt(at int, path string) ([]byte, error) {
	fd, err := openat(at, path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// Read on the stack: fresh pages of the heap would take half of the time.
	var page [4096]byte
	var text []byte
	for {
		n, err := read(fd, page[:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return text, nil
		}
		text = append(text, page[:n]...)
	}
}

// ReadOnce reads as much of a file that is not kept open as one system call puts
// into buf, and returns that.
func ReadOnce(path string, buf []byte) ([]byte, error) {
	fd, err := openat(unix.AT_FDCWD, path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := read(fd, buf)
	return buf[:n], err
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
	fd, err := openat(unix.AT_FDCWD, path, unix.O_WRONLY)
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
	ids := make([]int, 0, bytes.Count(text, []byte("\n"))+1)
	n, ok := 0, false
	for _, c := range text {
		switch {
		case c >= '0' && c <= '9' && n < 1<<30:
			n, ok = n*10+int(c-'0'), true
		case c == '\n':
			if ok && n > 0 {
				ids = append(ids, n)
			}
			n, ok = 0, false
		default:
			n, ok = 1<<30, false
		}
	}
	if ok && n > 0 && n < 1<<30 {
		ids = append(ids, n)
	}
	return ids
}
