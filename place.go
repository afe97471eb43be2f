package freezer

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/systemd"
)

// place decides where in a hierarchy the tree of groups lives; the steps are
// those of Open.
func place(b *backend, root string) (string, error) {
	if b.readOnly {
		return "", fmt.Errorf("%w: %s is mounted read-only: remount it read-write, or give this container a cgroup namespace of its own", ErrPermission, b.mount)
	}
	if root != "" {
		return root, nil
	}
	if b.name == Ptrace { // each user has a place
		return filepath.Join(b.mount, treeName), nil
	}
	if dir := delegated(b); dir != "" {
		return filepath.Join(dir, treeName), nil
	}
	if unit, ok := b.unit(); ok {
		return filepath.Join(unit.Dir, treeName), nil
	}
	if os.Geteuid() == 0 {
		return filepath.Join(b.mount, treeName), nil
	}
	return "", fmt.Errorf("%w: no group of %s belongs to this user: be root, or have systemd run a manager for you (log in, or loginctl enable-linger), or have a group delegated, or name one with --root", ErrPermission, b.mount)
}

// delegated returns the highest group, from the caller's own upwards, in which
// an unprivileged caller may make groups and move tasks; empty when there is
// none. For root every group would do, so none counts as delegated; nor does
// what belongs to a user's systemd: the user's tree should be the same one in
// each of its units.
func delegated(b *backend) string {
	if os.Geteuid() == 0 {
		return ""
	}
	dir, err := b.Dir(os.Getpid())
	if err != nil {
		return ""
	}
	found := ""
	for ; under(b.mount, dir) && writable(dir); dir = filepath.Dir(dir) {
		if systemd.IsUserManager(dir) {
			return ""
		}
		found = dir
	}
	return found
}

func writable(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil &&
		unix.Faccessat(unix.AT_FDCWD, dir+"/cgroup.procs", unix.W_OK, unix.AT_EACCESS) == nil
}

// unit returns the unit of the caller's systemd that is, or will be, delegated
// to this package; ok is false where systemd does not manage the hierarchy.
func (b *backend) unit() (u systemd.Unit, ok bool) {
	init, err := b.Dir(1)
	if err != nil {
		return u, false
	}
	return systemd.Find(init, os.Geteuid())
}

// makeRoot makes the tree's own directory, below one that exists or that
// systemd makes.
func (f *Freezer) makeRoot() error {
	if h, ok := f.backend.hierarchy.(keptHierarchy); ok {
		if err := h.Make(); err != nil {
			return err
		}
	}
	err := unix.Mkdir(f.root, 0o755)
	if err == unix.ENOENT {
		if unit, ok := f.backend.unit(); ok && under(unit.Dir, f.root) {
			if err := unit.Start(); err != nil {
				return err
			}
			err = unix.Mkdir(f.root, 0o755)
		}
	}
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// MoveProcess moves a process, by the kernel or, where the kernel wants a right
// that the caller's systemd can give (out of a login session), by systemd.
func (b *backend) MoveProcess(dir string, pid int) error {
	err := b.hierarchy.MoveProcess(dir, pid)
	if err != unix.EACCES && err != unix.EPERM || os.Geteuid() == 0 {
		return err
	}
	unit, ok := b.unit()
	if !ok || !under(unit.Dir, dir) {
		return err
	}
	asked := unit.Attach(dir, pid)
	// A caller that moved itself into a frozen group hears of it too late.
	if is, _ := b.Dir(pid); asked == nil || is == dir {
		return nil
	}
	return &errnoError{fmt.Errorf("%w: the kernel lets only systemd move %d here, and systemd says: %w", ErrPermission, pid, asked), err.(unix.Errno)}
}
