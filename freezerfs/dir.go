package freezerfs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// Lookup answers what is under a name in a group.
func (fs *fileSystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	g, _, err := fs.find(h.NodeId, callerOf(h))
	if err == nil {
		err = callerOf(h).may(maySearch, &g.stat)
	}
	if err != nil {
		return status(err)
	}
	if f := fileByName(name, g.isRoot()); f != nil {
		st, err := fs.fileStat(g, f)
		if err != nil {
			return status(err)
		}
		fs.nodes.again(g.node)
		out.NodeId = g.id | f.number()<<fileShift
		out.SetEntryTimeout(fileTime)
		attr(&out.Attr, &st)
		return fuse.OK
	}
	return status(fs.enter(g, name, out))
}

// enter answers with a group below g, which the kernel remembers by that.
func (fs *fileSystem) enter(g *group, name string, out *fuse.EntryOut) error {
	if len(name) > unix.NAME_MAX {
		return unix.ENAMETOOLONG
	}
	if freezer.CheckName(name) != nil {
		return unix.ENOENT
	}
	st, err := fs.root.stat(g.join(name))
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOENT // a file of the kernel's that is not shown
	}
	dir, err := fs.keep(g.join(name), &st)
	if err != nil {
		return err
	}
	out.NodeId = fs.nodes.remember(g.node, name, st.Ino, dir).id
	attr(&out.Attr, &st)
	return nil
}

// mayChange finds a group in which the caller may make and remove others.
func (fs *fileSystem) mayChange(h *fuse.InHeader) (*group, error) {
	g, _, err := fs.find(h.NodeId, callerOf(h))
	if err != nil {
		return nil, err
	}
	return g, callerOf(h).may(mayWrite|maySearch, &g.stat)
}

// Mkdir makes a group. Below a frozen one it is born frozen.
func (fs *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	g, err := fs.mayChange(&in.InHeader)
	if err != nil {
		return status(err)
	}
	if err := freezer.CheckName(name); err != nil {
		return status(err)
	}
	made, err := fs.f.Make(g.join(name))
	if err != nil {
		return status(err)
	}
	st, err := fs.adopt(g, name, made.Dir(), in)
	var dir int
	if err == nil {
		dir, err = fs.keep(g.join(name), &st)
	}
	if err != nil {
		_ = made.Remove()
		return status(err)
	}
	fs.releaser.made()
	n := fs.nodes.remember(g.node, name, st.Ino, dir)
	fs.stampLater(n, made)
	out.NodeId = n.id
	attr(&out.Attr, &st)
	return fuse.OK
}

// stampDelay is when a new group is told how old it is, if it is still there: not
// while its maker waits for it.
const stampDelay = 50 * time.Millisecond

func (fs *fileSystem) stampLater(n *node, g *freezer.Group) {
	now := time.Now()
	time.AfterFunc(stampDelay, func() {
		if still, _ := fs.nodes.get(n.id); still == n {
			g.Stamp(now)
		}
	})
}

// adopt gives a new group what the kernel gives: the caller's mode and
// ownership, and its parent's flags.
func (fs *fileSystem) adopt(g *group, name, dir string, in *fuse.MkdirIn) (st unix.Stat_t, err error) {
	if err := fs.inheritFlags(g, dir); err != nil {
		return st, err
	}
	st, err = fs.root.stat(g.join(name))
	c, mode := callerOf(&in.InHeader), in.Mode&01777
	if err != nil || c.uid == st.Uid && c.gid == st.Gid && mode == st.Mode&07777 {
		return st, err
	}
	if err := unix.Chmod(dir, mode); err != nil {
		return st, err
	}
	if c.uid != st.Uid || c.gid != st.Gid {
		if err := fs.giveAll(dir, c); err != nil {
			return st, err
		}
	}
	return fs.root.stat(g.join(name))
}

// keep keeps the number of a group's directory from being used again, where that
// is necessary: see node. It looks at the directory once more then.
func (fs *fileSystem) keep(path string, st *unix.Stat_t) (dir int, err error) {
	if fs.f.Backend() != freezer.Ptrace {
		return -1, nil
	}
	dir, err = unix.Open(fs.f.Root()+"/"+path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return dir, unix.Fstat(dir, st)
}

// Rmdir removes a group without tasks and children.
func (fs *fileSystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	g, err := fs.mayChange(h)
	if err != nil {
		return status(err)
	}
	if freezer.CheckName(name) != nil {
		return fuse.ENOENT
	}
	if c := callerOf(h); g.stat.Mode&unix.S_ISVTX != 0 && !c.owns(&g.stat) { // sticky: each removes his own
		st, err := fs.root.stat(g.join(name))
		if err == nil && !c.owns(&st) {
			err = unix.EPERM
		}
		if err != nil {
			return status(err)
		}
	}
	child, err := fs.f.Group(g.join(name))
	if err != nil {
		return status(err)
	}
	return status(child.Remove())
}

// A listing is an open directory. What it lists is read when it is read from its
// beginning, and stays the same until it is rewound.
type listing struct {
	node    *node
	mu      sync.Mutex
	entries []fuse.DirEntry
}

// OpenDir answers opendir(3).
func (fs *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	g, _, err := fs.find(in.NodeId, callerOf(&in.InHeader))
	if err == nil {
		err = callerOf(&in.InHeader).may(mayRead, &g.stat)
	}
	if err != nil {
		return status(err)
	}
	out.Fh = fs.handles.add(&listing{node: g.node})
	return fuse.OK
}

// ReleaseDir answers closedir(3).
func (fs *fileSystem) ReleaseDir(in *fuse.ReleaseIn) { fs.handles.drop(in.Fh) }

// ReadDir answers readdir(3). Offsets are places in the listing.
func (fs *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	l, ok := fs.handles.get(in.Fh).(*listing)
	if !ok {
		return fuse.EBADF
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if in.Offset == 0 {
		g, err := fs.locate(l.node)
		if err == nil {
			l.entries, err = fs.list(g)
		}
		if err != nil {
			return status(err)
		}
	}
	for i := min(in.Offset, uint64(len(l.entries))); i < uint64(len(l.entries)); i++ {
		e := l.entries[i]
		e.Off = i + 1
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

// list reads a group's directory.
func (fs *fileSystem) list(g *group) ([]fuse.DirEntry, error) {
	entries := []fuse.DirEntry{
		{Name: ".", Mode: unix.S_IFDIR, Ino: g.stat.Ino},
		{Name: "..", Mode: unix.S_IFDIR},
	}
	for _, f := range filesOf(g.isRoot()) {
		entries = append(entries, fuse.DirEntry{Name: f.name, Mode: unix.S_IFREG, Ino: g.stat.Ino | f.number()<<fileShift})
	}
	err := readDirs(fs.dir(g), func(e fuse.DirEntry) {
		if freezer.CheckName(e.Name) == nil {
			entries = append(entries, e)
		}
	})
	if g.isRoot() && err == unix.ENOENT { // somebody has tidied it away
		err = nil
	}
	return entries, err
}

// readDirs calls do for each directory in dir.
func readDirs(dir string, do func(fuse.DirEntry)) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return err
		}
		for text := buf[:n]; len(text) > 0; {
			var e fuse.DirEntry
			text = text[e.Parse(text):]
			if e.Mode == unix.S_IFDIR && e.Name != "." && e.Name != ".." {
				do(e)
			}
		}
	}
}
