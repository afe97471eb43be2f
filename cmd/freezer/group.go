package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/audit"
)

type addCmd struct {
	Group string `arg:"" help:"The group, which is made when it is not there."`
	PIDs  []int  `arg:"" name:"pid" help:"Processes, by their PID."`
	Tree  bool   `help:"Move the descendants of each, too."`
}

// Help is the part of the help that follows the flags.
func (*addCmd) Help() string {
	return `A process is moved with all its threads, and what it starts from then on is in the group, too. When one of the processes cannot be moved none is.

In a frozen group it freezes.`
}

func (c *addCmd) Run(s *session) error {
	for _, pid := range c.PIDs {
		if pid == os.Getpid() {
			return fmt.Errorf("add to %s: %w: %d is this command itself, which ends now; to start a program in a group: freezer run", c.Group, freezer.ErrPID, pid)
		}
	}
	f, err := s.open()
	if err != nil {
		return err
	}
	s.notice()(0) // all of them are moved, or none
	_, err = f.AddAll(c.Group, c.PIDs, c.Tree)
	return err
}

type killCmd struct {
	Groups  []string      `arg:"" name:"group" help:"Groups of the tree, or cgroups by their path."`
	Timeout time.Duration `default:"5s" help:"How long to wait until they are gone."`
	Why     string        `placeholder:"TEXT" help:"The reason, for the log."`
}

// Help is the part of the help that follows the flags.
func (*killCmd) Help() string {
	return `The tasks of all groups below die, too. The groups stay, in the states that they have.`
}

func (c *killCmd) Run(s *session) error {
	gang, err := s.groups(c.Groups...)
	if err != nil {
		return err
	}
	ctx := s.notice()(c.Timeout)
	return each(gang, func(g *freezer.Group) error {
		err := g.Kill(ctx)
		record(freezer.Gang{g}, audit.Event{Op: "kill", Reason: c.Why, Err: err})
		return err
	})
}

type rmCmd struct {
	Groups  []string      `arg:"" name:"group" help:"Groups of the tree."`
	Kill    bool          `help:"Kill what is in the group first, and remove the groups below it as well."`
	Timeout time.Duration `default:"5s" help:"How long to wait until what was killed is gone."`
	Why     string        `placeholder:"TEXT" help:"The reason, for the log."`
}

// Help is the part of the help that follows the flags.
func (*rmCmd) Help() string {
	return `Without --kill only a group without tasks and without groups below it can be removed.`
}

func (c *rmCmd) Run(s *session) error {
	gang, err := s.groups(c.Groups...)
	if err != nil {
		return err
	}
	ctx := s.notice()(c.Timeout)
	return each(gang, func(g *freezer.Group) error {
		if !c.Kill {
			return g.Remove()
		}
		err := g.RemoveAll(ctx)
		if !errors.Is(err, freezer.ErrNotExist) {
			record(freezer.Gang{g}, audit.Event{Op: "kill", Reason: c.Why, Err: err})
		}
		return err
	})
}
