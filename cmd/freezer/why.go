package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/cgfreezer/freezer"
)

type whyCmd struct {
	Group string `arg:"" help:"A group of the tree, or a cgroup by its path."`
}

// Help is the part of the help that follows the flags.
func (*whyCmd) Help() string {
	return `Of a group that does not get frozen it lists each task that keeps it from that: what the task waits for, and what helps.`
}

// An explanation is what why has to say of a group.
type explanation struct {
	report
	FrozenBy string         `json:"frozen_by,omitempty"` // the group above that is freezing
	Holds    []freezer.Hold `json:"holds"`
}

func (c *whyCmd) Run(s *session) error {
	gang, err := s.groups(c.Group)
	if err != nil {
		return err
	}
	e, err := explain(gang[0])
	if err != nil {
		return err
	}
	if s.JSON {
		return s.json(e)
	}
	s.out.WriteString(printable(e.String()) + "\n")
	return nil
}

func explain(g *freezer.Group) (*explanation, error) {
	e := &explanation{report: report{Group: g.Name()}, Holds: []freezer.Hold{}}
	var err error
	if e.States, err = g.States(); err != nil {
		return nil, err
	}
	if e.Blockers, err = g.Blockers(); err != nil {
		return nil, err
	}
	holds, err := g.Holds()
	if err != nil {
		return nil, err
	}
	e.Holds = append(e.Holds, holds...)
	above, err := g.FrozenBy()
	if above != nil {
		e.FrozenBy = above.Name()
	}
	return e, err
}

// String is the explanation in words.
func (e *explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s", e.Group, e.Effective)
	switch e.Effective {
	case freezer.Freezing:
		writeBlockers(&b, e.Blockers)
		b.WriteString(".")
	case freezer.Frozen:
		b.WriteString(": each of its tasks is frozen.")
	case freezer.Thawed:
		b.WriteString(": its tasks run, as far as the freezer is concerned.")
	}
	if e.Self == freezer.Freezing {
		for _, h := range e.Holds {
			fmt.Fprintf(&b, "\n%s", describeHold(h))
		}
		fmt.Fprintf(&b, "\nTo let it run: freezer thaw %s", quote(e.Group))
	}
	if e.FrozenBy != "" {
		fmt.Fprintf(&b, "\n%s above it is freezing; to let that run: freezer thaw %s", e.FrozenBy, quote(e.FrozenBy))
	}
	return b.String()
}

func describeHold(h freezer.Hold) string {
	text := "It was frozen"
	if h.Owner != freezer.DefaultOwner {
		text = h.Owner + " holds it"
	}
	if !h.Since.IsZero() {
		text += fmt.Sprintf(" by uid %d since %s", h.User, h.Since.Local().Format(time.DateTime))
	}
	if h.Lease() && !h.Until.IsZero() {
		text += " until " + h.Until.Local().Format(time.DateTime)
	}
	if h.Reason != "" {
		text += ": " + h.Reason
	}
	return text + "."
}
