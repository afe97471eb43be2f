package freezerfs

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// A fileSystem answers the kernel's requests. Nothing that is shown is kept: each
// answer is asked of the kernel's directories, and none that can change may be
// cached, so that all who look at a tree agree.
//
// The context of a request, its cancel channel, is used nowhere: a client that
// freezes its own group interrupts its own request by that.
type fileSystem struct {
	fuse.RawFileSystem // what a group's directory knows nothing of: ENOSYS
	f                  *freezer.Freezer
	opts               Options
	root               rootDir
	nodes              nodes
	handles            handles
	recent             recent
	attrs              attrs
	pids               pidSpace
	releaser           *releaser
}

func newFileSystem(f *freezer.Freezer, opts Options) (*fileSystem, error) {
	fs := &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), f: f, opts: opts, attrs: ownAttrs(), pids: ownPIDs()}
	fs.releaser = &releaser{fs: fs}
	fs.root = rootDir{f: f, renewed: fs.releaser.start}
	fs.nodes.init()
	return fs, fs.root.open()
}

// String is the name for the library's messages.
func (fs *fileSystem) String() string { return "freezer" }

// OnUnmount ends what the mount had running.
func (fs *fileSystem) OnUnmount() {
	fs.releaser.stop()
	fs.recent.close()
	fs.root.close()
}

// status is the answer to a request that ended with err.
func status(err error) fuse.Status { return fuse.Status(freezer.Errno(err)) }

// StatFs answers statfs(2) as the kernel's own hierarchies do, but for the type.
func (fs *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	page := uint32(os.Getpagesize())
	*out = fuse.StatfsOut{Bsize: page, Frsize: page, NameLen: unix.NAME_MAX}
	return fuse.OK
}

// What can be made and unmade is groups, and nothing else. The errnos are those
// of the kernel's own.

func (fs *fileSystem) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return fuse.EACCES
}

func (fs *fileSystem) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return fuse.Status(unix.EOPNOTSUPP)
}

func (fs *fileSystem) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (fs *fileSystem) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status {
	return fuse.EPERM
}

func (fs *fileSystem) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (fs *fileSystem) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

// Rename is possible on no backend but cgroup1, and there only within a group;
// holds and other handles go by name.
func (fs *fileSystem) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return fuse.EPERM
}
