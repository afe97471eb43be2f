package freezerfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What users who are not root do by the set-user-ID program fusermount3.

// mountByHelper mounts at dir, and returns the connection, which the program
// sends over a socket.
func mountByHelper(dir string, opts Options) (fd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer ours.Close()
	defer theirs.Close()
	options := fmt.Sprintf("fsname=%s,subtype=freezer,max_read=%d", strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(opts.Source), maxRead)
	if opts.AllowOther {
		options += ",allow_other"
	}
	if opts.Flags&unix.MS_RDONLY != 0 {
		options += ",ro"
	}
	cmd := exec.Command(helper(), "-o", options, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := run(cmd); err != nil {
		return -1, fmt.Errorf("mount at %s: %w", dir, err)
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return -1, fmt.Errorf("mount at %s: nothing from %s: %w", dir, cmd.Path, err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("mount at %s: no connection from %s: %w", dir, cmd.Path, unix.EPROTO)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("mount at %s: no connection from %s: %w", dir, cmd.Path, unix.EPROTO)
	}
	return fds[0], nil
}

// unmountByHelper unmounts what mountByHelper has mounted.
func unmountByHelper(dir string, flags int) error {
	args := []string{"-u"}
	if flags&unix.MNT_DETACH != 0 {
		args = append(args, "-z")
	}
	err := run(exec.Command(helper(), append(args, "--", dir)...))
	if err != nil && strings.Contains(err.Error(), "busy") {
		return unix.EBUSY
	}
	return err
}

func helper() string {
	if path, err := exec.LookPath("fusermount3"); err == nil {
		return path
	}
	return "fusermount"
}

// run turns what a program complains of into an error.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil && text != "" {
		err = errors.New(text)
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
