package freezerfs

import (
	"errors"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// A rootDir is the open directory of the tree's root. To look at something from
// there takes 1.5 µs, by its whole path 4 µs; there are several looks to each
// request.
type rootDir struct {
	f       *freezer.Freezer
	renewed func() // called when it had to be made again

	mu   sync.RWMutex
	fd   int
	ino  uint64
	self string // its path from itself, as long as it has its name
	age  int    // how often it was opened
}

// open makes the directory, if need be, and opens it.
func (r *rootDir) open() error {
	if _, err := r.f.Create("/"); !errors.Is(err, freezer.ErrExist) {
		return err
	}
	fd, err := unix.Open(r.f.Root(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	r.close()
	r.fd, r.ino, r.self = fd, st.Ino, "../"+filepath.Base(r.f.Root())
	r.age++
	return nil
}

func (r *rootDir) close() {
	if r.age > 0 {
		unix.Close(r.fd)
	}
}

// stat is stat(2) of a path from the root.
func (r *rootDir) stat(path string) (st unix.Stat_t, err error) {
	for range 2 {
		r.mu.RLock()
		age := r.age
		err = unix.Fstatat(r.fd, path, &st, unix.AT_SYMLINK_NOFOLLOW)
		r.mu.RUnlock()
		if err != unix.ENOENT || !r.renew(age) {
			break
		}
	}
	return st, err
}

// renew makes the root again if somebody has tidied it away, which is possible
// while it is empty. It says whether there is another one than at that age.
func (r *rootDir) renew(age int) bool {
	var st unix.Stat_t
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.age != age {
		return true
	}
	if unix.Fstatat(r.fd, r.self, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Ino == r.ino || r.open() != nil {
		return false
	}
	r.renewed()
	return true
}
