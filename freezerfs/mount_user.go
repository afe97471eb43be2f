package freezerfs

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fusermount unmounts for a user who is not root.
func fusermount(dir string, flags int) error {
	args := []string{"-u"}
	if flags&unix.MNT_DETACH != 0 {
		args = append(args, "-z")
	}
	program, err := exec.LookPath("fusermount3")
	if err != nil {
		program = "fusermount"
	}
	out, err := exec.Command(program, append(args, "--", dir)...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case strings.Contains(string(out), "busy"):
		return unix.EBUSY
	case errors.As(err, &exit):
		return errors.New(strings.TrimSpace(string(out)))
	}
	return err
}

// absolute is a directory's path as mountinfo has it. The server of what is
// mounted there may be dead, so it is not insisted on looking at it.
func absolute(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real, nil
	}
	up, err := filepath.EvalSymlinks(filepath.Dir(dir))
	return filepath.Join(up, filepath.Base(dir)), err
}
