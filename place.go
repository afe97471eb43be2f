package freezer

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// place decides where in a hierarchy the tree of groups lives; the steps are
// those of Open.
func place(b *backend, root string) (string, error) {
	if b.readOnly {
		return "", fmt.Errorf("%w: %s is mounted read-only: remount it read-write, or give this container a cgroup namespace of its own", ErrPermission, b.mount)
	}
	if root != "" {
		return filepath.Clean(root), nil
	}
	if dir := delegated(b); dir != "" {
		return filepath.Join(dir, treeName), nil
	}
	if os.Geteuid() == 0 {
		return filepath.Join(b.mount, treeName), nil
	}
	return "", fmt.Errorf("%w: no group of %s belongs to this user: be root, or have a group delegated (on systemd hosts: systemd-run --user --scope -p Delegate=yes), or name one with --root", ErrPermission, b.mount)
}

// delegated returns the highest group, from the caller's own upwards, in which
// an unprivileged caller may make groups and move tasks; empty when there is
// none. For root every group would do, so none counts as delegated.
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
		found = dir
	}
	return found
}

func writable(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil &&
		unix.Faccessat(unix.AT_FDCWD, dir+"/cgroup.procs", unix.W_OK, unix.AT_EACCESS) == nil
}
