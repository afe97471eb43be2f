// Package rundir finds the directory in which this user's freezer processes
// meet. It goes with the boot and is trusted by nobody else.
package rundir

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Path returns the directory: $FREEZER_RUNTIME_DIR, else /run/freezer for root,
// else freezer in $XDG_RUNTIME_DIR, else one in the directory for temporary files.
func Path() string {
	if dir := os.Getenv("FREEZER_RUNTIME_DIR"); dir != "" {
		return dir
	}
	uid := os.Geteuid()
	if uid == 0 {
		return "/run/freezer"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "freezer")
	}
	return filepath.Join(os.TempDir(), "freezer-"+strconv.Itoa(uid))
}

// Make makes sure that the directory, and sub below it, is there, belongs to
// this user and can be written by nobody else.
func Make(sub string) (string, error) { return MakeIn(Path(), sub) }

// MakeIn is Make for another directory than Path.
func MakeIn(dir, sub string) (string, error) {
	for _, d := range []string{dir, filepath.Join(dir, sub)} {
		if err := os.Mkdir(d, 0o700); err != nil && !os.IsExist(err) {
			return "", err
		}
		st, err := os.Lstat(d)
		if err != nil {
			return "", err
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !st.IsDir() || !ok || int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
			return "", fmt.Errorf("%s is not a directory that only this user can write: remove it, or name another in FREEZER_RUNTIME_DIR: %w", d, syscall.EPERM)
		}
	}
	return filepath.Join(dir, sub), nil
}
