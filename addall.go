package freezer

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// AddAll moves processes, or with tree each with all its descendants, into the
// group of that name, which it makes when need be, as CreateAll does. When one
// of them cannot be moved, none is, and no group is made. See Group.Add for the
// errors.
//
// undo moves them back to where each was, and removes the groups that were made.
// What they have forked meanwhile stays where it is.
func (f *Freezer) AddAll(name string, pids []int, tree bool) (undo func(), err error) {
	for _, pid := range pids {
		if err := movable(pid); err != nil {
			return nil, opError("add to", name, err)
		}
	}
	var m moves
	g, err := m.make(f, name)
	for _, pid := range pids {
		if err != nil {
			break
		}
		add := func(pid int) error { return m.move(g, pid) }
		if tree {
			err = g.addTree(pid, add)
		} else {
			err = add(pid)
		}
		err = opError("add to", name, err)
	}
	if err != nil {
		m.undo()
		return nil, err
	}
	return m.undo, nil
}

// moves remembers what AddAll did.
type moves struct {
	made []*Group
	from []move
}

type move struct {
	pid  int
	dir  string
	back func(dir string, pid int) error
}

// make is CreateAll.
func (m *moves) make(f *Freezer, name string) (*Group, error) {
	g, err := f.Group(name)
	if err != nil || name[0] == '/' {
		return g, err
	}
	parts := strings.Split(name, "/")
	for i := range parts {
		g, err = f.Create(strings.Join(parts[:i+1], "/"))
		switch {
		case err == nil:
			m.made = append(m.made, g)
		case !errors.Is(err, ErrExist):
			return nil, err
		}
	}
	return f.Group(name)
}

func (m *moves) move(g *Group, pid int) error {
	dir, err := g.backend.Dir(pid)
	if err != nil && err != unix.ESRCH && err != unix.ENOENT {
		return err
	}
	if dir == g.dir {
		return nil
	}
	if err := g.add(pid); err != nil {
		return err
	}
	if dir != "" {
		m.from = append(m.from, move{pid, dir, g.backend.MoveProcess})
	}
	return nil
}

// undo does its best: who has died meanwhile need not be moved.
func (m *moves) undo() {
	for _, it := range m.from {
		_ = it.back(it.dir, it.pid)
	}
	for _, g := range slices.Backward(m.made) {
		_ = g.Remove()
		g.Close()
	}
}
