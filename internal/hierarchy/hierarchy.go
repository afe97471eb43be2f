// Package hierarchy holds what the kernel's two cgroup hierarchies have in
// common: where they are mounted, and how a path in /proc/PID/cgroup becomes a
// directory.
package hierarchy

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A Tree is one mounted hierarchy.
type Tree struct {
	Mount    string // the directory where it is mounted
	ReadOnly bool
	root     string // what of the hierarchy is seen there
	match    func(proc.Cgroup) bool
}

// Find returns the first mount that fits and that really is what it says (a
// later mount may hide it); one that can be written is preferred. ok is false
// when there is none.
func Find(mounts []mountinfo.Mount, magic int64, fits func(mountinfo.Mount) bool, match func(proc.Cgroup) bool) (t Tree, ok bool) {
	for i, m := range mounts {
		hides := func(later mountinfo.Mount) bool { return later.Point == m.Point }
		var fs unix.Statfs_t
		if !fits(m) || slices.ContainsFunc(mounts[i+1:], hides) || unix.Statfs(m.Point, &fs) != nil || int64(fs.Type) != magic {
			continue
		}
		if !ok || t.ReadOnly && !m.ReadOnly() {
			t = Tree{Mount: m.Point, ReadOnly: m.ReadOnly(), root: m.Root, match: match}
		}
		ok = true
	}
	return t, ok
}

// Dir returns the directory in which a process or task is. The error is ESRCH
// when there is no such task, ENOENT when its group cannot be seen through
// this mount.
func (t Tree) Dir(id int) (string, error) {
	cgroups, err := proc.Cgroups(id)
	if err != nil {
		return "", err
	}
	return t.DirIn(cgroups)
}

// DirIn is Dir for a task whose /proc/ID/cgroup has been read. Reading it is
// not cheap: it takes the lock of all cgroups.
func (t Tree) DirIn(cgroups []proc.Cgroup) (string, error) {
	for _, c := range cgroups {
		if t.match(c) {
			return t.dir(c.Path)
		}
	}
	return "", unix.ENOENT
}

func (t Tree) dir(path string) (string, error) {
	if t.root != "/" {
		rest, ok := strings.CutPrefix(path, t.root)
		if !ok || rest != "" && rest[0] != '/' {
			return "", unix.ENOENT
		}
		path = rest
	}
	if path == "/.." || strings.HasPrefix(path, "/../") { // above the cgroup namespace
		return "", unix.ENOENT
	}
	return filepath.Join(t.Mount, path), nil
}

// IDs reads a file that lists PIDs or TIDs.
func IDs(dir, file string) ([]int, error) {
	text, err := kernfs.ReadFile(dir + "/" + file)
	if err == unix.ENODEV {
		err = unix.ENOENT
	}
	return kernfs.ParseIDs(text), err
}
