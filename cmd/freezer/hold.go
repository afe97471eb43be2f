package main

import (
	"fmt"
	"time"

	"github.com/cgfreezer/freezer"
)

type holdsCmd struct {
	Group string `arg:"" optional:"" help:"A group of the tree, or a cgroup by its path; all groups of the tree when there is none."`
}

// Help is the part of the help that follows the flags.
func (*holdsCmd) Help() string {
	return `A group stays frozen while there is a hold on it. OWNER is default for a freeze without --by. LEFT is the time until the hold ends by itself; a hold that somebody overrode, by a raw write to the kernel's file, holds nothing any more.`
}

// A groupHold is what a list says of a hold.
type groupHold struct {
	Group string `json:"group"`
	freezer.Hold
}

func (c *holdsCmd) Run(s *session) error {
	groups, err := s.some(c.Group)
	if err != nil {
		return err
	}
	list := []groupHold{}
	err = each(groups, func(g *freezer.Group) error {
		defer g.Close()
		holds, err := g.Holds()
		for _, h := range holds {
			list = append(list, groupHold{g.Name(), h})
		}
		return err
	})
	if err != nil {
		return err
	}
	if s.JSON {
		return s.json(list)
	}
	t := s.table("GROUP\tOWNER\tUID\tAGE\tLEFT\tREASON")
	for _, h := range list {
		since := &h.Since
		if h.Since.IsZero() {
			since = nil
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\n", cell(h.Group), cell(h.Owner), h.User, age(since), left(h.Hold), cell(h.Reason))
	}
	return t.Flush()
}

// left says how long a hold lasts.
func left(h freezer.Hold) string {
	switch {
	case h.Overridden:
		return "overridden"
	case !h.Until.IsZero() && h.While != 0:
		return fmt.Sprintf("%s or while %d", time.Until(h.Until).Round(time.Second), h.While)
	case !h.Until.IsZero():
		return time.Until(h.Until).Round(time.Second).String()
	case h.While != 0:
		return fmt.Sprintf("while %d", h.While)
	}
	return "-"
}

// some finds the group of that name, or all of the tree for an empty name.
func (s *session) some(name string) (freezer.Gang, error) {
	if name != "" {
		return s.groups(name)
	}
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	return f.Groups()
}
