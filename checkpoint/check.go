package checkpoint

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/cgfreezer/freezer"
)

// An Obstacle is something that an image would not carry.
type Obstacle struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Where   string `json:"where"`            // "descriptor 3", "mapping 7f00-7f10", "process"
	What    string `json:"what"`             // it is, and why that is in the way
	Option  string `json:"option,omitempty"` // of restore, which gets it out of the way: then it does not hinder the checkpoint
}

func (o Obstacle) String() string {
	text := fmt.Sprintf("process %d (%s): %s: %s", o.PID, o.Command, o.Where, o.What)
	if o.Option != "" {
		text += "; restore it with " + o.Option
	}
	return text
}

// Hinders says whether there can be no image because of the obstacle.
func (o Obstacle) Hinders() bool { return o.Option == "" }

// A RefusedError says that a group cannot be checkpointed, and each reason.
type RefusedError struct{ Obstacles []Obstacle }

func (e *RefusedError) Error() string {
	text := fmt.Sprintf("it cannot be checkpointed: %d obstacles", len(e.Obstacles))
	if len(e.Obstacles) == 1 {
		text = "it cannot be checkpointed: 1 obstacle"
	}
	for _, o := range e.Obstacles {
		text += "\n  " + o.String()
	}
	return text
}

// Is says that the error matches ErrUnsupported.
func (e *RefusedError) Is(target error) bool { return target == freezer.ErrUnsupported }

// Check lists what keeps a group, with those below it, from being checkpointed,
// and what a restore would have to be told. It only reads, and lets the tasks
// run: what they do meanwhile is looked at again by Save.
func Check(g *freezer.Group) ([]Obstacle, error) {
	obstacles, err := look(g)
	// Tasks that come and go between two looks are no obstacle: what is one is seen
	// again.
	for tries := 0; err == nil && len(obstacles) > 0 && tries < 2; tries++ {
		var again []Obstacle
		again, err = look(g)
		obstacles = slices.DeleteFunc(obstacles, func(o Obstacle) bool { return !slices.Contains(again, o) })
	}
	return obstacles, err
}

// look looks at running tasks once.
func look(g *freezer.Group) ([]Obstacle, error) {
	s, err := newSurvey(g)
	if err != nil {
		return nil, err
	}
	if err := s.members(); err != nil {
		return nil, err
	}
	s.all()
	return s.sorted(), nil
}

// sorted are the obstacles by process, those that hinder first.
func (s *survey) sorted() []Obstacle {
	slices.SortStableFunc(s.obstacles, func(a, b Obstacle) int {
		if a.Hinders() != b.Hinders() {
			if a.Hinders() {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.PID, b.PID)
	})
	return s.obstacles
}

// refused is the error for the obstacles that hinder.
func (s *survey) refused() error {
	var all []Obstacle
	for _, o := range s.sorted() {
		if o.Hinders() {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return &RefusedError{all}
}
