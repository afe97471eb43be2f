package freezer

import (
	"errors"
	"time"
)

// An Info is what a list says of a group. The JSON names are the public ones.
type Info struct {
	Group string `json:"group"`
	States
	Processes int        `json:"processes"` // in the group itself
	Tasks     int        `json:"tasks"`     // in the group itself
	Created   *time.Time `json:"created,omitempty"`
}

// Info reads all that a list says of the group.
func (g *Group) Info() (Info, error) {
	s, err := g.States()
	if err != nil {
		return Info{}, err
	}
	info := Info{Group: g.name, States: s}
	pids, err := g.Processes()
	if err != nil {
		return Info{}, err
	}
	tids, err := g.Tasks()
	if err != nil {
		return Info{}, err
	}
	info.Processes, info.Tasks = len(pids), len(tids)
	if t := g.Created(); !t.IsZero() {
		info.Created = &t
	}
	return info, nil
}

// List returns the Info of each group of the tree, in the order of Groups.
// Groups that vanish meanwhile are left out.
func (f *Freezer) List() ([]Info, error) {
	groups, err := f.Groups()
	if err != nil {
		return nil, err
	}
	list := make([]Info, 0, len(groups))
	for _, g := range groups {
		info, err := g.Info()
		g.Close()
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	return list, nil
}

// Members describes the processes of the group and of its descendants, group by
// group in the order of Walk, by PID in each. Those that end meanwhile are left
// out.
func (g *Group) Members() ([]Process, error) {
	groups, err := g.Walk()
	if err != nil {
		return nil, err
	}
	var list []Process
	for _, sub := range groups {
		pids, err := sub.Processes()
		if errors.Is(err, ErrNotExist) && sub != g {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			if p, ok := Describe(pid); ok {
				p.Group = sub.name
				list = append(list, p)
			}
		}
	}
	return list, nil
}
