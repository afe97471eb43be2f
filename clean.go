package freezer

import (
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// coldFreeze is longer than a freeze takes on a host where cgroup1 is warm.
const coldFreeze = 2 * time.Millisecond

// warm sees to it that cgroup1 freezes fast, once, and again when a freeze took
// long to ask for. It is an optimization: where the caller may not make groups in
// the tree's root, freezing works without.
func (f *Freezer) warm(took time.Duration) {
	if f.backend.warm == nil || f.rootErr != nil || f.warmed.Swap(true) && took < coldFreeze {
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
	root.removeGraves()
	err := rmdir(f.warmDir())
	if root.emptied() {
		// Somebody may make a group there at this moment: then the root stays.
		if rootErr := root.rmdir(); rootErr != unix.EBUSY && rootErr != unix.ENOENT {
			err = errors.Join(err, rootErr)
		}
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
