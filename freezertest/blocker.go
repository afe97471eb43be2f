package freezertest

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// Blocker starts a process that cannot be frozen, nor killed: it reads a file
// of a FUSE server that does not answer. It is in the caller's group; add it to
// another.
//
// release has the server answer; the process then ends, or freezes when that
// was asked of it. It may be called more than once, and is called when the test
// ends. The server is part of the test binary: when this dies, the kernel aborts the
// connection and nothing stays behind. Where FUSE cannot be mounted
// the test is skipped with the reason.
func Blocker(tb testing.TB) (pid int, release func()) {
	tb.Helper()
	dir := tb.TempDir()
	file := &silentFile{asked: make(chan struct{}, 1), answer: make(chan struct{})}
	mountSilent(tb, dir, file)
	var once sync.Once
	release = func() { once.Do(func() { close(file.answer) }) }
	cmd := exec.Command("cat", filepath.Join(dir, "silent"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	Run(tb, cmd)
	tb.Cleanup(release) // before the process is killed: it could not die
	pid = cmd.Process.Pid
	Eventually(tb, "the reader has asked the server", func() bool {
		select {
		case <-file.asked:
			return true
		default:
			if _, alive := freezer.Describe(pid); !alive {
				tb.Fatal("the reader ended")
			}
			return false
		}
	})
	return pid, release
}

// mountSilent mounts a file system with one file at dir until the test ends.
//
// It does by itself what the FUSE library can do, too, because that leaves the
// connection open in every program that is started later: one that waits for
// the server would then keep itself waiting when the server is dead.
func mountSilent(tb testing.TB, dir string, file fs.InodeEmbedder) {
	tb.Helper()
	conn, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Skipf("no FUSE here: /dev/fuse: %v", err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d", conn, unix.S_IFDIR, os.Geteuid(), os.Getegid())
	if err := unix.Mount("freezertest", dir, "fuse.silent", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		unix.Close(conn)
		tb.Skipf("no FUSE here: mount: %v", err)
	}
	forgetMount := OnUnmount(dir)
	tb.Cleanup(func() {
		if err := unmount(dir); err != nil {
			tb.Errorf("left behind: %s: %v", dir, err)
		}
		forgetMount()
	})
	// The server closes conn when the mount is gone.
	if _, err := fs.Mount(fmt.Sprintf("/dev/fd/%d", conn), &silentRoot{file: file}, &fs.Options{
		MountOptions: fuse.MountOptions{Logger: log.New(io.Discard, "", 0)}, // that a reader was killed is no news
	}); err != nil {
		tb.Fatal(err)
	}
}

// silentRoot is the directory that holds the one file.
type silentRoot struct {
	fs.Inode
	file fs.InodeEmbedder
}

// OnAdd puts the file into the directory.
func (r *silentRoot) OnAdd(ctx context.Context) {
	r.AddChild("silent", r.NewPersistentInode(ctx, r.file, fs.StableAttr{Mode: syscall.S_IFREG}), true)
}

// silentFile is a file whose read is answered, with its end, when answer is
// closed.
type silentFile struct {
	fs.Inode
	asked  chan struct{}
	answer chan struct{}
}

var (
	_ fs.NodeOpener = (*silentFile)(nil)
	_ fs.NodeReader = (*silentFile)(nil)
)

// Open has the reader itself wait for the answer, not the page cache.
func (f *silentFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read ignores its context: not even a freeze or a signal interrupts it.
func (f *silentFile) Read(context.Context, fs.FileHandle, []byte, int64) (fuse.ReadResult, syscall.Errno) {
	select {
	case f.asked <- struct{}{}:
	default:
	}
	<-f.answer
	return fuse.ReadResultData(nil), 0
}
