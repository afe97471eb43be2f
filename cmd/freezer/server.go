package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// server is the program that has the parts which run long.
const server = "freezerd"

type mountCmd struct {
	Dir     string   `arg:"" type:"path" help:"An empty directory."`
	Options []string `short:"o" placeholder:"OPTION" help:"Mount options, as freezerd(8) has them: nowait, grace=200ms, threads …"`
	Detach  bool     `help:"Return when it is mounted; the server goes on in the background."`
}

// Help is the part of the help that follows the flags.
func (*mountCmd) Help() string {
	return `Directories are groups, and their files are those of the kernel's classical freezer hierarchy. Without --detach it serves until it is unmounted or interrupted.`
}

func (c *mountCmd) Run(s *session) error {
	args := s.flags("mount")
	if len(c.Options) > 0 {
		args = append(args, "-o", strings.Join(c.Options, ","))
	}
	if c.Detach {
		args = append(args, "--detach")
	}
	return s.serve(append(args, c.Dir))
}

type umountCmd struct {
	Dir string `arg:"" type:"path" help:"Where it is mounted."`
}

// Help is the part of the help that follows the flags.
func (*umountCmd) Help() string { return `No group and no state is changed by that.` }

func (c *umountCmd) Run(s *session) error { return s.serve([]string{"umount", c.Dir}) }

type demoCmd struct{}

// Help is the part of the help that follows the flags.
func (*demoCmd) Help() string {
	return `It shows what SIGSTOP does to a nested shell and freezing does not, a freeze that is kept from being complete, and the ways out. It removes all that it made, also when it is interrupted.`
}

func (c *demoCmd) Run(s *session) error { return s.serve(s.flags("demo")) }

// flags are a command of the server's and the global flags.
func (s *session) flags(command string) []string {
	args := []string{command}
	if s.Root != "" {
		args = append(args, "--root", s.Root)
	}
	if s.Backend != "" {
		args = append(args, "--backend", s.Backend)
	}
	return args
}

// serve executes the server in place of this program.
func (s *signals) serve(args []string) error {
	path, err := findServer()
	if err != nil {
		return err
	}
	s.release()
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, append([]string{server}, args...), os.Environ()))
}

// findServer looks beside this program, on the PATH, and where packages put
// programs that users do not call.
func findServer() (string, error) {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	dirs = append(dirs, "/usr/local/libexec/freezer", "/usr/libexec/freezer", "/usr/lib/freezer")
	for _, dir := range dirs {
		path := filepath.Join(dir, server)
		if filepath.IsAbs(path) && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the program %s, which does this, is neither beside this one nor on the PATH: install it", server)
}

// keeperCmd is what the package starts to end leases.
type keeperCmd struct{}

func (c *keeperCmd) Run(s *session) error {
	err := freezer.RunKeeper(s.notice()(0))
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
