package checkpoint

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// SaveFile is Save to a file that only its owner may read, and that is there as
// a whole or not at all: it has no name before all of it is on the disk. The
// group is not stopped while the disk is waited for, if it is to go on.
func SaveFile(ctx context.Context, g *freezer.Group, path string, o SaveOptions) (Stats, error) {
	dir := filepath.Dir(path)
	f, err := unnamed(dir)
	if err != nil {
		return Stats{}, err
	}
	defer f.Close()
	return save(ctx, g, f, o, func() error { return name(f, dir, path) })
}

// unnamed makes a file in a directory that nothing is left of unless it gets a
// name.
func unnamed(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err == nil || !os.IsExist(err) && unwrapped(err) != unix.EOPNOTSUPP && unwrapped(err) != unix.EISDIR {
		return f, err
	}
	return os.CreateTemp(dir, ".freezer-image-*") // a file system without unnamed files
}

func unwrapped(err error) error {
	if e, ok := err.(*os.PathError); ok {
		return e.Err
	}
	return err
}

// name makes a file last, and gives it the name, which it takes from another one.
func name(f *os.File, dir, path string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	beside := f.Name()
	if beside == dir {
		beside = filepath.Join(dir, fmt.Sprintf(".%s.%d", filepath.Base(path), os.Getpid()))
		_ = os.Remove(beside)
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, beside, unix.AT_SYMLINK_FOLLOW); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := os.Rename(beside, path); err != nil {
		_ = os.Remove(beside)
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
