package freezer

import (
	"fmt"
	"strings"
)

// State is a state of a group as the classical freezer.state names it.
type State uint8

// The three states. Self and parent states are Thawed or Freezing; only an
// effective state is ever Frozen.
const (
	Thawed State = iota
	Freezing
	Frozen
)

var stateWords = [...]string{Thawed: "THAWED", Freezing: "FREEZING", Frozen: "FROZEN"}

func (s State) String() string {
	if int(s) < len(stateWords) {
		return stateWords[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText writes the word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads any of the three words.
func (s *State) UnmarshalText(text []byte) error {
	for i, w := range stateWords {
		if string(text) == w {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("%w: %q", ErrState, text)
}

// ParseState reads what may be written to a freezer.state: FROZEN or THAWED,
// with blanks and newlines around it. Everything else, FREEZING too, is not
// legal and gives ErrState (EIO).
func ParseState(text string) (State, error) {
	switch strings.Trim(text, " \t\r\n\v\f\x00") {
	case "FROZEN":
		return Frozen, nil
	case "THAWED":
		return Thawed, nil
	}
	if len(text) > 32 {
		text = text[:32] + "…"
	}
	return 0, fmt.Errorf("%w: %q; write FROZEN or THAWED", ErrState, text)
}

// States is all that a group's state consists of.
type States struct {
	Self      State `json:"self"`      // what was last asked of this group: Thawed or Freezing
	Parent    State `json:"parent"`    // Freezing when any ancestor is
	Effective State `json:"effective"` // what its tasks are
}

func freezing(on bool) State {
	if on {
		return Freezing
	}
	return Thawed
}

// State returns the group's effective state. It only reads, and may be called
// by anybody who may read the group's files.
func (g *Group) State() (s State, err error) {
	err = g.fresh(func() error {
		frozen, err := g.cg.Frozen()
		if s = Frozen; err != nil || frozen {
			return err
		}
		on, err := g.cg.Freezing()
		if err == nil && !on {
			on, err = g.cg.ParentFreezing()
		}
		s = freezing(on)
		return err
	})
	return s, opError("state", g.name, err)
}

// States returns self, parent and effective state. The three are read one
// after the other, not at one moment.
func (g *Group) States() (s States, err error) {
	err = g.fresh(func() error {
		frozen, err := g.cg.Frozen()
		if err != nil {
			return err
		}
		self, err := g.cg.Freezing()
		if err != nil {
			return err
		}
		parent, err := g.cg.ParentFreezing()
		if frozen && !self && !parent {
			// It was thawed just now, or an ancestor is frozen that cannot be seen here.
			if frozen, err = g.cg.Frozen(); err != nil {
				return err
			}
			parent = frozen
		}
		s = States{freezing(self), freezing(parent), freezing(self || parent)}
		if frozen && s.Effective == Freezing {
			s.Effective = Frozen
		}
		return err
	})
	return s, opError("state", g.name, err)
}
