package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/cgfreezer/freezer"
)

// supervise runs a program where it can be frozen only by a process above it,
// and ends as it does.
func supervise(f *freezer.Freezer, group, path string, argv []string) error {
	if _, err := f.CreateAll(group); err != nil {
		return err
	}
	status, by, err := f.Run(group, path, argv)
	if err != nil {
		return err
	}
	if by != 0 {
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), by)
		status = 128 + int(by) // not every signal ends everybody
	}
	os.Exit(status)
	return nil
}
