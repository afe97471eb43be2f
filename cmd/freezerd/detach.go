package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// readyEnv tells a server that descriptor 3 wants to know when the mount works.
const readyEnv = "FREEZERD_READY"

// detach starts a server that goes on in the background, and returns when its
// mount works. Until then it belongs to the terminal, so that ^C ends it, too.
func (m *mounter) detach(dir string, options []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ready, say, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	args := []string{"mount"}
	for _, option := range options {
		args = append(args, "-o", option)
	}
	if m.Root != "" {
		args = append(args, "--root", m.Root)
	}
	if m.Backend != "" {
		args = append(args, "--backend", m.Backend)
	}
	cmd := exec.Command(exe, append(args, "--", dir)...)
	cmd.Env = append(os.Environ(), readyEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{say}
	err = cmd.Start()
	say.Close()
	if err != nil {
		return err
	}
	if word, _ := io.ReadAll(ready); len(word) > 0 {
		return nil
	}
	return cmd.Wait()
}

// background leaves the terminal and all that was inherited, if that is wanted,
// and tells who waits for it.
func background() {
	if os.Getenv(readyEnv) == "" {
		return
	}
	_, _ = unix.Setsid()
	_ = os.Chdir("/")
	if null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		for fd := range 3 {
			_ = unix.Dup3(null, fd, 0)
		}
		unix.Close(null)
	}
	_, _ = unix.Write(3, []byte("mounted"))
	unix.Close(3)
}

// helperName is what mount(8) calls us; see its "External helpers".
const helperName = "mount.freezer"

// Exit statuses of mount(8).
const (
	helperUsage  = 1
	helperFailed = 32
)

// mountHelper is mount.freezer SOURCE DIR [-fnsv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS].
func mountHelper(args []string) int {
	m := mounter{}
	var words, options []string
	var fake, sloppy bool
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case len(arg) < 2 || arg[0] != '-':
			words = append(words, arg)
		case arg == "-o" && len(args) > 0:
			options = append(options, splitOptions(args[0])...)
			args = args[1:]
		case (arg == "-N" || arg == "-t") && len(args) > 0:
			args = args[1:]
		default:
			for _, letter := range arg[1:] {
				fake = fake || letter == 'f'
				sloppy = sloppy || letter == 's'
			}
		}
	}
	if len(words) != 2 {
		return complain(helperUsage, "usage: "+helperName+" SOURCE DIR [-fnsv] [-o OPTION,…]")
	}
	options = append(options, "fsname="+words[0])
	for i := 0; i < len(options); i++ {
		if err := m.option(options[i]); err != nil {
			if !sloppy {
				return complain(helperUsage, err.Error())
			}
			options = append(options[:i], options[i+1:]...)
			i--
		}
	}
	if fake {
		return 0
	}
	dir, err := filepath.Abs(words[1])
	if err == nil {
		err = m.detach(dir, options)
	}
	if report(err) != 0 {
		return helperFailed
	}
	return 0
}

func splitOptions(list string) []string { return strings.Split(list, ",") }

func complain(status int, text string) int {
	fmt.Fprintln(os.Stderr, helperName+": "+text)
	return status
}
