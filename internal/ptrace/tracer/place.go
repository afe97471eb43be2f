package tracer

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/rundir"
)

// The files beside the trees of groups.
const (
	recordsName = ".freezer-records" // a directory: see record
	socketName  = ".freezer-tracer"
	runnersName = ".freezer-runners" // a directory: the sockets of runners, by PID
	lockName    = ".freezer-lock"    // locked by the tracer
	markedName  = ".freezer-marked"  // a link: since when processes have been marked
)

// ChangesName is a file in each group that was ever used. It is written to when
// the group's state changes, and when a process is put into it or taken out, so that
// inotify tells; what is in it means nothing. When a process has come its mode is
// set, too, to what it is.
const ChangesName = "freezer.changes"

// Find returns the place for this user's groups; or, when root is not empty, the
// one that root lies in, if it does. A place goes with the boot, and with the
// PID namespace in which the numbers of processes mean something: what is left
// from another is not found again. Nothing is made yet.
func Find(root string) (*Hierarchy, error) {
	boot, err := kernfs.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("/proc/sys/kernel/random/boot_id: %w", err)
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	if len(boot) < 8 {
		return nil, fmt.Errorf("/proc/sys/kernel/random/boot_id: %w", unix.EINVAL)
	}
	name := "ptrace-" + string(boot[:8]) + "-" + strings.Trim(ns, "pid:[]")
	dir := rundir.Path()
	if above, _, ok := strings.Cut(root, "/"+name+"/"); ok {
		dir = above
	}
	return &Hierarchy{mount: filepath.Join(dir, name)}, nil
}

// Make makes the place, and removes those of earlier boots. The error matches
// EPERM when somebody else could write there.
func (h *Hierarchy) Make() error {
	if unix.Access(filepath.Join(h.mount, recordsName), unix.W_OK) == nil {
		return h.check()
	}
	if _, err := rundir.MakeIn(filepath.Dir(h.mount), filepath.Base(h.mount)); err != nil {
		return err
	}
	h.removeOld()
	err := unix.Mkdir(filepath.Join(h.mount, recordsName), 0o700)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// check makes sure that nobody else can write into the place: what stands there
// decides what is frozen.
func (h *Hierarchy) check() error {
	for _, dir := range []string{filepath.Dir(h.mount), h.mount, filepath.Join(h.mount, recordsName)} {
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
			return fmt.Errorf("%s is not a directory that only this user can write: remove it, or name another place in FREEZER_RUNTIME_DIR: %w", dir, unix.EPERM)
		}
	}
	return nil
}

// removeOld removes what earlier boots left. Another PID namespace's place of
// this boot may be in use.
func (h *Hierarchy) removeOld() {
	boot, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(h.mount), "ptrace-"), "-")
	old, _ := filepath.Glob(filepath.Join(filepath.Dir(h.mount), "ptrace-????????-*"))
	for _, dir := range old {
		if !strings.HasPrefix(filepath.Base(dir), "ptrace-"+boot+"-") {
			_ = os.RemoveAll(dir)
		}
	}
}

// path is a group's directory as records and the tracer name it: relative to
// the place.
func (h *Hierarchy) path(dir string) (string, error) {
	path, ok := strings.CutPrefix(dir, h.mount+"/")
	if !ok || path == "" || path[0] == '.' {
		return "", unix.ENOENT
	}
	return path, nil
}

func (h *Hierarchy) dir(path string) string {
	if path == "" {
		return h.mount
	}
	return h.mount + "/" + path
}

// identity is a number for a group's directory: another one made later under the
// same name is another group. ok is false when there is no such group.
func (h *Hierarchy) identity(path string) (id uint64, ok bool) {
	st, id, err := identify(unix.AT_FDCWD, h.dir(path), unix.AT_SYMLINK_NOFOLLOW)
	return id, err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// identify makes one number, never 0, of all that tells a file from others. An
// inode number alone does not: ext4 gives it to the next directory. The file
// handle has a generation besides, where the file system makes handles; the time
// of birth is coarse.
func identify(at int, path string, flags int) (st unix.Statx_t, id uint64, err error) {
	if err := unix.Statx(at, path, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return st, 0, err
	}
	hash := fnv.New64a()
	fmt.Fprint(hash, st.Ino, st.Btime.Sec, st.Btime.Nsec)
	// Without AT_SYMLINK_FOLLOW this does not follow links.
	if handle, _, err := unix.NameToHandleAt(at, path, flags&unix.AT_EMPTY_PATH); err == nil {
		_, _ = hash.Write(handle.Bytes())
	}
	return st, hash.Sum64() | 1, nil
}

// above lists a path and those of the groups above it, the nearest first.
func above(path string, visit func(path string) (stop bool)) {
	for {
		if visit(path) {
			return
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return
		}
		path = path[:i]
	}
}

// under says whether path is group or lies below it.
func under(group, path string) bool {
	rest, ok := strings.CutPrefix(path, group)
	return ok && (rest == "" || rest[0] == '/')
}

// touch writes to the file that tells of a group's changes.
func (h *Hierarchy) touch(path string) {
	fd, err := unix.Open(h.dir(path)+"/"+ChangesName, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		_, _ = unix.Pwrite(fd, []byte{'\n'}, 0)
		unix.Close(fd)
	}
}

// touchAll is touch for a group and all below.
func (h *Hierarchy) touchAll(path string) {
	h.touch(path)
	dir := h.dir(path)
	if st := (unix.Stat_t{}); unix.Stat(dir, &st) == nil && st.Nlink == 2 { // without children
		return
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			h.touchAll(path + "/" + e.Name())
		}
	}
}
