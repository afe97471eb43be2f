package main

import (
	"os"

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
		dieBy(by)
	}
	os.Exit(status)
	return nil
}
