package freezer

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// warm sees to it that cgroup1 freezes fast. It is an optimization: where the
// caller may not make groups in the tree's root, freezing works without.
func (f *Freezer) warm() {
	if f.backend.warm == nil || f.rootErr != nil {
		return
	}
	if dir := f.warmDir(); unix.Access(dir, unix.F_OK) != nil {
		_ = f.backend.warm(dir)
	}
}

func (f *Freezer) warmDir() string { return filepath.Join(f.root, hiddenPrefix+"warm") }

// Clean removes what this package made for itself: its hidden groups, and the
// root of the tree when no group is left in it. It touches no group and no task.
func (f *Freezer) Clean() error {
	if f.rootErr != nil {
		return nil
	}
	root := f.handle("/", f.root, f.backend)
	root.removeGrave()
	err := rmdir(f.warmDir())
	groups, listErr := root.childDirs()
	if listErr != nil || len(groups) > 0 {
		return opError("clean", "/", err)
	}
	if pids, procErr := f.backend.Procs(f.root); procErr == nil && len(pids) == 0 {
		err = errors.Join(err, rmdir(f.root))
	}
	return opError("clean", "/", err)
}

// rmdir is no error when there is no such directory.
func rmdir(dir string) error {
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}
