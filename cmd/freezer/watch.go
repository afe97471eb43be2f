package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/cgfreezer/freezer"
)

type watchCmd struct {
	Group string `arg:"" optional:"" help:"A group of the tree, or a cgroup by its path; the whole tree when there is none."`
}

// Help is the part of the help that follows the flags.
func (*watchCmd) Help() string {
	return `It begins with what there is, and goes on until it is interrupted. With --json each line is an object.

Root sees each process that comes and goes. Others see states at once, and the processes of a group that they name after a second; of the whole tree they see those only that somebody moves in.`
}

func (c *watchCmd) Run(s *session) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	var groups []*freezer.Group
	if c.Group != "" {
		g, err := f.Group(c.Group)
		if err != nil {
			return err
		}
		groups = append(groups, g)
	}
	out := json.NewEncoder(os.Stdout)
	for e, err := range f.Watch(context.Background(), groups...) {
		if err != nil {
			return err
		}
		if s.JSON {
			err = out.Encode(e)
		} else {
			_, err = fmt.Println(printable(e.Time.Local().Format("15:04:05.000") + "  " + describeEvent(e)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func describeEvent(e freezer.Event) string {
	text := e.Group + " " + e.Kind
	switch {
	case e.States != nil:
		text = e.Group + " is " + stateWord(*e.States)
	case e.Blocker != nil:
		text = fmt.Sprintf("%s is kept from freezing by task %d (%s), which %s", e.Group, e.Blocker.TID, e.Blocker.Command, e.Blocker.Reason)
	case e.PID != 0:
		text = e.Group + ": process " + strconv.Itoa(e.PID) + " " + e.Kind
		if p, ok := freezer.Describe(e.PID); ok && e.Kind != freezer.EventExited {
			text += " (" + p.Command + ")"
		}
	}
	return text
}
