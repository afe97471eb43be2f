package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

type runCmd struct {
	Group   string   `short:"g" required:"" placeholder:"GROUP" help:"The group, which is made when it is not there."`
	Command []string `arg:"" passthrough:"partial" help:"The program and its arguments."`
}

// Help is the part of the help that follows the flags.
func (*runCmd) Help() string {
	return `The program takes this command's place: it has the same PID, terminal, signals and files, and its exit status is its own. In a frozen group it starts when that is thawed.`
}

func (c *runCmd) Run(s *session) error {
	argv := c.Command
	if argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return &statusError{usage, errors.New("run: say which program")}
	}
	path, err := find(argv[0])
	if err != nil {
		return err
	}
	f, err := s.open()
	if err != nil {
		return err
	}
	if f.MustRun() {
		return supervise(f, c.Group, path, argv)
	}
	s.notice()(0) // it goes through, or is undone
	undo, err := f.AddAll(c.Group, []int{os.Getpid()}, false)
	if err != nil {
		return err
	}
	mark, err := f.Mark(c.Group)
	if err != nil {
		undo()
		return err
	}
	if name, value, ok := strings.Cut(mark, "="); ok {
		_ = os.Setenv(name, value) // it is a legal one
	}
	err = s.replace(path, argv)
	undo()
	return err
}

// find looks a program up as shells do.
func find(name string) (path string, err error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	err = &statusError{notFound, fmt.Errorf("run %s: no such program on the PATH", name)}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		if !strings.Contains(path, "/") {
			path = "./" + path
		}
		if st, e := os.Stat(path); e != nil || st.IsDir() {
			continue
		}
		e := executable(path)
		if e == nil {
			return path, nil
		}
		err = e
	}
	return "", err
}

// executable says why a file cannot be executed.
func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return &statusError{notFound, fmt.Errorf("run %s: no such program", path)}
	case err != nil:
		return &statusError{notRun, fmt.Errorf("run %s: %w", path, errors.Unwrap(err))}
	case st.IsDir():
		return &statusError{notRun, fmt.Errorf("run %s: it is a directory", path)}
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return &statusError{notRun, fmt.Errorf("run %s: %w; chmod +x makes a file executable", path, err)}
	}
	return nil
}

// replace executes the program in place of this one; it returns when that fails.
// A text without an interpreter's name is the shell's, as in execvp(3).
func (s *signals) replace(path string, argv []string) error {
	if s.release() {
		return fmt.Errorf("%s is not run: interrupted", argv[0])
	}
	err := syscall.Exec(path, argv, os.Environ())
	if err == syscall.ENOEXEC {
		err = syscall.Exec("/bin/sh", append([]string{"sh", path}, argv[1:]...), os.Environ())
	}
	status := notRun
	if err == syscall.ENOENT {
		status = notFound // of the interpreter
	}
	return &statusError{status, fmt.Errorf("run %s: %w", path, err)}
}
