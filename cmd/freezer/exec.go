package main

import (
	"errors"
	"fmt"

	"github.com/cgfreezer/freezer"
)

type execCmd struct {
	Thawed  bool     `help:"Run it even if the group is frozen: beside the group, not in it."`
	Group   string   `arg:"" help:"A group that is there."`
	Command []string `arg:"" passthrough:"partial" help:"The program and its arguments."`
}

// Help is the part of the help that follows the flags.
func (*execCmd) Help() string {
	return `As run, but the group must be there and must not be frozen: a program that is started in a frozen group does nothing until that is thawed.`
}

func (c *execCmd) Run(s *session) error {
	gang, err := s.groups(c.Group)
	if err != nil {
		return err
	}
	g := gang[0]
	states, err := g.States()
	if err != nil {
		return err
	}
	if states.Effective == freezer.Thawed {
		return (&runCmd{Group: c.Group, Command: c.Command}).Run(s)
	}
	if !c.Thawed {
		return frozenError(g, states)
	}
	argv := c.Command
	if argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return &statusError{usage, errors.New("exec: say which program")}
	}
	path, err := find(argv[0])
	if err != nil {
		return err
	}
	return s.replace(path, argv)
}

// frozenError names the group that would have to be thawed.
func frozenError(g *freezer.Group, states freezer.States) error {
	frozen, because := g, ""
	if states.Self == freezer.Thawed {
		above, err := g.FrozenBy()
		if err != nil {
			return err
		}
		if above != nil {
			frozen, because = above, ", because "+above.Name()+" above it is"
		}
	}
	return fmt.Errorf("exec: %s is %s%s: a program started in it would do nothing\nThaw that with: freezer thaw %s\nOr run the program beside the group with: freezer exec --thawed %s …",
		g.Name(), states.Effective, because, quote(frozen.Name()), quote(g.Name()))
}
