package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/cgfreezer/freezer"
)

type doctorCmd struct {
	Clean bool `help:"Remove what is left over: this program's own groups, and mounts whose server is dead."`
}

// Help is the part of the help that follows the flags.
func (*doctorCmd) Help() string {
	return `Each line is something that this host has or has not, and what would give it. --clean removes no group of yours and touches no task.`
}

func (c *doctorCmd) Run(s *session) error {
	if c.Clean {
		if err := s.clean(); err != nil {
			return err
		}
	}
	list := freezer.Probe(s.options()...)
	if s.JSON {
		if err := s.json(list); err != nil {
			return err
		}
	} else {
		writeCapabilities(s, list)
	}
	_, err := s.open()
	return err
}

func writeCapabilities(s *session, list []freezer.Capability) {
	for _, c := range list {
		have := "yes"
		if !c.Have {
			have = "no"
		}
		fmt.Fprintf(&s.out, "%-4s %-12s %s\n", have, c.Name, cell(c.Detail))
		if !c.Have && c.Fix != "" {
			fmt.Fprintf(&s.out, "%18s%s\n", "", cell("→ "+c.Fix))
		}
	}
}

// clean removes leftovers and says what it removed.
func (s *session) clean() error {
	mounts, err := freezer.CleanMounts()
	for _, m := range mounts {
		say("unmounted " + m + ", whose server is dead")
	}
	f, oerr := s.open()
	if oerr != nil {
		return errors.Join(err, oerr)
	}
	return errors.Join(err, f.Clean())
}

// version is set when the program is built by make.
var version string

type versionCmd struct{}

func (c *versionCmd) Run(s *session) error {
	v := version
	if info, ok := debug.ReadBuildInfo(); v == "" && ok {
		v = info.Main.Version
	}
	if s.JSON {
		return s.json(map[string]string{"version": v, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
	}
	fmt.Fprintf(&s.out, "freezer %s (%s, %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
