package freezerfs

import (
	"fmt"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// Owners and permissions are those of the kernel's own directory and of the
// files there that do the same, so that they last as long as the group and are
// the same in every mount. What has no counterpart on this backend has an
// extended attribute of the directory instead.

// attrs are the extended attributes that a server uses. Root's are in a
// namespace of their own: a user who is given a group can set user.*, and would
// by that have a say in what root's server does for others.
type attrs struct{ prefix string }

func ownAttrs() attrs {
	if os.Geteuid() == 0 {
		return attrs{"trusted.freezer."}
	}
	return attrs{"user.freezer."}
}

// get returns an attribute of a directory; ok is false when it has none.
func (a attrs) get(dir, name string) (value string, ok bool) {
	var buf [4096]byte
	n, err := unix.Lgetxattr(dir, a.prefix+name, buf[:])
	return string(buf[:max(n, 0)]), err == nil
}

// names are those of all attributes of a directory, each with a NUL behind it.
func (attrs) names(dir string) string {
	var buf [4096]byte
	n, _ := unix.Llistxattr(dir, buf[:])
	return string(buf[:max(n, 0)])
}

func (a attrs) set(dir, name, value string) error {
	return unix.Lsetxattr(dir, a.prefix+name, []byte(value), 0)
}

// setOwner gives a file without counterpart its owner and mode.
func (a attrs) setOwner(dir string, f *file, uid, gid, mode uint32) error {
	return a.set(dir, f.name+".owner", fmt.Sprintf("%d %d %o", uid, gid, mode))
}

// fileStat is stat(2) of a file of the group.
func (fs *fileSystem) fileStat(g *group, f *file) (st unix.Stat_t, err error) {
	if own := f.kernel(fs.f.Backend()); own != "" {
		st, err = fs.root.stat(g.join(own))
	}
	if st.Ino == 0 && (err == nil || err == unix.ENOENT) {
		st, err = fs.bareStat(g, f), nil
	}
	st.Ino = g.stat.Ino | f.number()<<fileShift
	return st, err
}

// bareStat is that of a file without counterpart. Until it is given away it
// belongs to who made the group, which the kernel's other files remember, if there
// are any.
func (fs *fileSystem) bareStat(g *group, f *file) unix.Stat_t {
	st := g.stat
	st.Mode, st.Nlink, st.Size = unix.S_IFREG|f.mode, 1, 0
	if value, ok := fs.attrs.get(fs.dir(g), f.name+".owner"); ok {
		_, _ = fmt.Sscanf(value, "%d %d %o", &st.Uid, &st.Gid, &st.Mode)
	} else if made, err := fs.root.stat(g.join("cgroup.events")); err == nil {
		st.Uid, st.Gid = made.Uid, made.Gid
	} else {
		st.Uid, st.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	}
	return st
}

// attr writes what stat(2) said in the form of the protocol. The answer holds
// for this moment only.
func attr(out *fuse.Attr, st *unix.Stat_t) {
	*out = fuse.Attr{
		Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), Blksize: uint32(st.Blksize),
		Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Atime: uint64(st.Atim.Sec), Mtime: uint64(st.Mtim.Sec), Ctime: uint64(st.Ctim.Sec),
		Atimensec: uint32(st.Atim.Nsec), Mtimensec: uint32(st.Mtim.Nsec), Ctimensec: uint32(st.Ctim.Nsec),
	}
}

// statOf is stat(2) of what a request is about.
func (fs *fileSystem) statOf(h *fuse.InHeader) (g *group, f *file, st unix.Stat_t, err error) {
	g, f, err = fs.find(h.NodeId, callerOf(h))
	if err == nil {
		st, err = fs.statAt(g, f)
	}
	return g, f, st, err
}

func (fs *fileSystem) statAt(g *group, f *file) (unix.Stat_t, error) {
	if f == nil {
		return g.stat, nil
	}
	return fs.fileStat(g, f)
}

// GetAttr answers stat(2).
func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	g, f, err := fs.find(in.NodeId, callerOf(&in.InHeader))
	if err == unix.EACCES && in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		err = nil // fstat(2): whoever has it open need not find it
	}
	var st unix.Stat_t
	if err == nil {
		st, err = fs.statAt(g, f)
	}
	if err != nil {
		return status(err)
	}
	attr(&out.Attr, &st)
	return fuse.OK
}

// Access answers access(2) and chdir(2).
func (fs *fileSystem) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	_, _, st, err := fs.statOf(&in.InHeader)
	if err != nil {
		return status(err)
	}
	return status(callerOf(&in.InHeader).may(in.Mask, &st))
}

// SetAttr answers chown(2), chmod(2), utimensat(2) and truncate(2).
func (fs *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	g, f, st, err := fs.statOf(&in.InHeader)
	if err == nil {
		err = fs.setAttr(g, f, &st, in)
	}
	if err == nil {
		_, _, st, err = fs.statOf(&in.InHeader)
	}
	if err != nil {
		return status(err)
	}
	attr(&out.Attr, &st)
	return fuse.OK
}

func (fs *fileSystem) setAttr(g *group, f *file, st *unix.Stat_t, in *fuse.SetAttrIn) error {
	c := callerOf(&in.InHeader)
	uid, gid, mode := st.Uid, st.Gid, st.Mode
	if id, ok := in.GetUID(); ok {
		uid = id
	}
	if id, ok := in.GetGID(); ok {
		gid = id
	}
	if m, ok := in.GetMode(); ok {
		if !c.owns(st) {
			return unix.EPERM
		}
		mode = mode&unix.S_IFMT | m&07777
	}
	if (uid != st.Uid || gid != st.Gid) && !c.mayGive(st, uid, gid) {
		return unix.EPERM
	}
	if in.Valid&timesNow != in.Valid&times<<3 && !c.owns(st) { // others may only say that it is now …
		return unix.EPERM
	}
	if in.Valid&times != 0 && !c.owns(st) {
		if err := c.may(mayWrite, st); err != nil { // … and only who may write
			return err
		}
	}
	if _, ok := in.GetSize(); ok && in.Valid&fuse.FATTR_FH == 0 { // there is nothing to truncate
		if err := c.may(mayWrite, st); err != nil {
			return err
		}
	}
	path := fs.dir(g)
	if f != nil {
		own := f.kernel(fs.f.Backend())
		if path += "/" + own; own == "" || unix.Access(path, unix.F_OK) != nil {
			if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_MODE) == 0 {
				return nil
			}
			return fs.attrs.setOwner(fs.dir(g), f, uid, gid, mode)
		}
	}
	if uid != st.Uid || gid != st.Gid {
		if err := unix.Lchown(path, int(uid), int(gid)); err != nil {
			return err
		}
	}
	if mode != st.Mode {
		if err := unix.Chmod(path, mode&07777); err != nil {
			return err
		}
	}
	return setTimes(path, in)
}

// Bits of a request for times; each bit of timesNow belongs to one of times.
const (
	times    = fuse.FATTR_ATIME | fuse.FATTR_MTIME
	timesNow = fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW
)

func setTimes(path string, in *fuse.SetAttrIn) error {
	if in.Valid&times == 0 {
		return nil
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	if t, ok := in.GetATime(); ok {
		ts[0] = unix.NsecToTimespec(t.UnixNano())
	}
	if t, ok := in.GetMTime(); ok {
		ts[1] = unix.NsecToTimespec(t.UnixNano())
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// giveAll makes a new group the caller's, with all that is in it, as the kernel
// does for who makes a group there.
func (fs *fileSystem) giveAll(dir string, c caller) error {
	if fs.f.Backend() == freezer.Ptrace { // in whose place no other user can be
		for _, f := range inAGroup {
			if err := fs.attrs.setOwner(dir, f, c.uid, c.gid, unix.S_IFREG|f.mode); err != nil {
				return err
			}
		}
		return unix.Lchown(dir, int(c.uid), int(c.gid))
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if err := unix.Lchown(dir+"/"+e.Name(), int(c.uid), int(c.gid)); err != nil {
			return err
		}
	}
	if err != nil {
		return freezer.Errno(err)
	}
	return unix.Lchown(dir, int(c.uid), int(c.gid))
}
