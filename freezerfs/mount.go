// Package freezerfs shows a tree of groups as the classical freezer hierarchy: a
// file system of directories that are groups, with the files tasks,
// freezer.state and so on in them, for programs that were written for it.
//
//	f, err := freezer.Open()
//	s, err := freezerfs.Mount(f, "/containers", freezerfs.Options{})
//	s.Wait()
//
// It is a face of package freezer and keeps nothing by itself: groups, states,
// owners and permissions are the kernel's. Any number of servers can show the
// same tree, and one that is killed loses nothing. docs/filesystem.md says what
// differs from the kernel's own file system.
//
// The process that serves a mount must not be frozen: whoever uses the mount then
// hangs beyond kill -9. Groups that hold it are refused with EDEADLK.
package freezerfs

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime/debug"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/mountinfo"
)

// DefaultGrace is how long a write of FROZEN waits for the group to be frozen.
const DefaultGrace = 200 * time.Millisecond

// Type is how mountinfo calls our mounts.
const Type = "fuse.freezer"

// Options say how a tree is shown. The zero value will do.
type Options struct {
	Grace      time.Duration // how long a write of FROZEN may take before it is EBUSY; 0 means DefaultGrace
	NoWait     bool          // such a write succeeds at once, as that of later kernels does
	AllowOther bool          // others may use the mount, too; always so when the server is root
	Source     string        // what the mount says it is of; empty means "freezer"
	Flags      uintptr       // for mount(2), of root's mounts: unix.MS_RDONLY and so on
}

// A Server serves one mount. Its methods may be called concurrently.
type Server struct {
	dir  string
	fs   *fileSystem
	done chan struct{}
}

// Mount shows the tree of f at dir, which must be a directory and not already
// show one, until it is unmounted. When Mount returns, the mount is in use. f
// must not be changed; it can be used by others.
func Mount(f *freezer.Freezer, dir string, opts Options) (*Server, error) {
	if opts.Grace <= 0 {
		opts.Grace = DefaultGrace
	}
	if opts.Source == "" {
		opts.Source = "freezer"
	}
	dir, err := prepare(dir)
	if err != nil {
		return nil, err
	}
	fs, err := newFileSystem(f, opts)
	if err != nil {
		return nil, err
	}
	server, err := connect(fs, dir, opts)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, fs: fs, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		server.Serve()
	}()
	if err := probe(dir); err != nil {
		_ = s.Detach()
		return nil, err
	}
	fs.releaser.start()
	return s, nil
}

// connect mounts the file system and introduces itself to the kernel.
func connect(fs *fileSystem, dir string, opts Options) (*fuse.Server, error) {
	mo := &fuse.MountOptions{
		AllowOther: opts.AllowOther, FsName: opts.Source, Name: "freezer",
		MaxWrite: maxRead, DisableXAttrs: true, DisableReadDirPlus: true,
		DisableSplice: true, // which is for large files; for small ones it costs three system calls more
		// Not to the terminal: its reader may be frozen, and then the server would wait for it.
		Logger:       log.New(io.Discard, "", 0),
		PanicHandler: report,
	}
	if os.Geteuid() != 0 { // by the set-uid program fusermount3
		fd, err := openFuse() // it says less of what is wrong
		if err != nil {
			return nil, err
		}
		unix.Close(fd)
		server, err := fuse.NewServer(fs, dir, mo)
		if err != nil {
			return nil, fmt.Errorf("mount at %s: %w", dir, err)
		}
		return server, nil
	}
	fd, err := mountDirectly(dir, opts)
	if err != nil {
		return nil, err
	}
	server, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", fd), mo)
	if err != nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	return server, nil
}

// maxRead is the most that one request reads or writes.
const maxRead = 64 << 10

// mountDirectly does what the library can do, too, because that leaves the
// connection open in each program that is started later: clients would then wait
// for ever when the server is dead, instead of getting ENOTCONN.
func mountDirectly(dir string, opts Options) (fd int, err error) {
	fd, err = openFuse()
	if err != nil {
		return -1, err
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=%d,allow_other,max_read=%d", fd, os.Getegid(), maxRead)
	if err := unix.Mount(opts.Source, dir, Type, opts.Flags|unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount at %s: %w", dir, err)
	}
	return fd, nil
}

func openFuse() (fd int, err error) {
	fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/fuse: %w: this host has no FUSE, or does not let this user have it (modprobe fuse)", err)
	}
	return fd, nil
}

// report tells of a bug. The request that met it fails with EIO.
func report(what any) fuse.Status {
	fmt.Fprintf(os.Stderr, "freezerfs: panic: %v\n%s", what, debug.Stack())
	return fuse.EIO
}

// prepare finds out whether something can be mounted at dir, and takes a dead
// mount of ours away.
func prepare(dir string) (string, error) {
	dir, err := absolute(dir)
	if err != nil {
		return "", err
	}
	m, mounted := mountedAt(dir)
	ours := mounted && m.Type == Type
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case err == unix.ENOTCONN && ours:
		if err := unmount(dir, unix.MNT_DETACH); err != nil {
			return "", fmt.Errorf("%s has a mount whose server is dead, which cannot be unmounted: %w", dir, err)
		}
		return prepare(dir)
	case err != nil:
		return "", fmt.Errorf("%s: %w", dir, err)
	case ours:
		return "", fmt.Errorf("%s shows a tree of groups already: %w", dir, unix.EBUSY)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return "", fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
	}
	return dir, nil
}

// mountedAt returns the topmost mount at a directory.
func mountedAt(dir string) (m mountinfo.Mount, ok bool) {
	mounts, _ := mountinfo.Self()
	for _, at := range mounts {
		if at.Point == dir {
			m, ok = at, true
		}
	}
	return m, ok
}

// probe uses the mount, with a call that has the kernel ask whether there is
// poll. There is not; until the kernel knows, a client in this very process
// could block the server: the Go runtime polls what it opens.
func probe(dir string) error {
	fd, err := unix.Open(dir+"/"+pollProbe, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the mount at %s does not work: %w", dir, err)
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return nil
}

// pollProbe is the library's own hidden file for this.
const pollProbe = ".go-fuse-epoll-hack"

// Dir is the mount point.
func (s *Server) Dir() string { return s.dir }

// Wait returns when the mount is gone, whoever unmounted it.
func (s *Server) Wait() { <-s.done }

// Unmount takes the mount away and returns when the server has ended. It thaws
// nothing. The error is EBUSY when somebody uses the mount; see Detach.
func (s *Server) Unmount() error { return s.unmount(0) }

// Detach is Unmount for a mount that is in use: nobody new finds it, and the
// server ends when nobody uses it any more. Detach does not wait for that.
func (s *Server) Detach() error { return s.unmount(unix.MNT_DETACH) }

func (s *Server) unmount(flags int) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := unmount(s.dir, flags); err != nil {
		return err
	}
	if flags == 0 {
		s.Wait()
	}
	return nil
}

// Unmount takes a mount of this package's away, whoever serves it. With lazy it
// does so also when somebody uses it.
func Unmount(dir string, lazy bool) error {
	dir, err := absolute(dir)
	if err != nil {
		return err
	}
	if m, ok := mountedAt(dir); !ok || m.Type != Type {
		return fmt.Errorf("%s shows no tree of groups: %w", dir, unix.EINVAL)
	}
	flags := 0
	if lazy {
		flags = unix.MNT_DETACH
	}
	return unmount(dir, flags)
}

func unmount(dir string, flags int) error {
	var err error
	if os.Geteuid() == 0 {
		err = unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	} else {
		err = fusermount(dir, flags)
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmount %s: %w: somebody uses it, or has a directory of it as working directory", dir, err)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
