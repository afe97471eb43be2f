package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

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

func isRefused(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused)
}

// Is says that the error matches ErrUnsupported.
func (e *RefusedError) Is(target error) bool { return target == freezer.ErrUnsupported }

// Check lists what keeps a group, with those below it, from being checkpointed,
// and what a restore would have to be told. It only reads, and lets the tasks
// run: what they do meanwhile is looked at again by Save.
func Check(g *freezer.Group) ([]Obstacle, error) {
	s, err := preflight(g)
	if err != nil {
		return nil, err
	}
	return s.obstacles, nil
}

// preflight surveys running tasks.
func preflight(g *freezer.Group) (*survey, error) {
	s, err := look(g)
	// Tasks that come and go between two looks are no obstacle, as the child of a
	// vfork is before it starts its program: what is one is seen again.
	for nap := time.Millisecond; err == nil && len(s.obstacles) > 0 && nap < 128*time.Millisecond; nap *= 2 {
		time.Sleep(nap)
		seen := s.obstacles
		s, err = look(g)
		if err == nil {
			s.obstacles = slices.DeleteFunc(seen, func(o Obstacle) bool { return !slices.Contains(s.obstacles, o) })
		}
	}
	return s, err
}

// look looks at running tasks once.
func look(g *freezer.Group) (*survey, error) {
	s, err := newSurvey(g)
	if err != nil {
		return nil, err
	}
	if err := s.members(); err != nil {
		return nil, err
	}
	s.tracked = trackedOf(g)
	s.all()
	for i := range s.job.Processes {
		if p := &s.job.Processes[i]; p.Ended == nil {
			_ = s.advise(p, p.PID) // it may have changed meanwhile
			s.now.maps[p.PID] = p.Mappings
			s.now.odd[p.PID] = slices.ContainsFunc(p.Mappings, func(m Mapping) bool { return m.Locked || m.uncopied() })
		}
	}
	s.sort()
	return s, nil
}

// again begins another survey of the group, which uses what this one found.
func (s *survey) again() (*survey, error) {
	next, err := newSurvey(s.group)
	if err != nil {
		return nil, err
	}
	next.before, next.frozen, next.base, next.tracked = s.now, s.frozen, s.base, s.tracked
	return next, nil
}

// sort orders the obstacles by process, those that hinder first.
func (s *survey) sort() {
	slices.SortStableFunc(s.obstacles, func(a, b Obstacle) int {
		if a.Hinders() != b.Hinders() {
			if a.Hinders() {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.PID, b.PID)
	})
}

// refused is the error for the obstacles that hinder.
func (s *survey) refused() error {
	var all []Obstacle
	s.sort()
	for _, o := range s.obstacles {
		if o.Hinders() {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return &RefusedError{all}
}
