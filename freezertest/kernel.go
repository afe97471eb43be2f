package freezertest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/cgfreezer/freezer"
)

// Kernel is the target that goes to the kernel by package freezer. It keeps
// its handles, so that those of groups that were removed and made anew are used too.
func Kernel(backend string, opts ...freezer.Option) Target {
	return func(tb testing.TB) (System, World) {
		return NewKernel(Tree(tb, backend, opts...)), NewWorld(tb)
	}
}

// NewKernel is a System over a tree.
func NewKernel(f *freezer.Freezer) System {
	return &kernel{f: f, groups: map[string]*freezer.Group{}}
}

type kernel struct {
	f      *freezer.Freezer
	mu     sync.Mutex
	groups map[string]*freezer.Group
}

var (
	_ TaskMover = (*kernel)(nil)
	_ TreeMover = (*kernel)(nil)
	_ Killer    = (*kernel)(nil)
	_ Explainer = (*kernel)(nil)
)

func (k *kernel) group(name string) (*freezer.Group, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g := k.groups[name]; g != nil {
		return g, nil
	}
	g, err := k.f.Group(name)
	if err == nil {
		k.groups[name] = g
	}
	return g, err
}

// with calls do with the handle of a group.
func with[T any](k *kernel, name string, do func(*freezer.Group) (T, error)) (T, error) {
	g, err := k.group(name)
	if err != nil {
		var zero T
		return zero, err
	}
	return do(g)
}

// on is with for what has no result.
func (k *kernel) on(name string, do func(*freezer.Group) error) error {
	_, err := with(k, name, func(g *freezer.Group) (struct{}, error) { return struct{}{}, do(g) })
	return err
}

func (k *kernel) Create(group string) error {
	_, err := k.f.Create(group)
	return err
}

func (k *kernel) Remove(group string) error { return k.on(group, (*freezer.Group).Remove) }

func (k *kernel) List() ([]string, error) {
	groups, err := k.f.Groups()
	var names []string
	for _, g := range groups {
		names = append(names, g.Name())
	}
	return names, err
}

func (k *kernel) Add(group string, pid int) error {
	return k.on(group, func(g *freezer.Group) error { return g.Add(pid) })
}

func (k *kernel) AddTask(group string, tid int) error {
	return k.on(group, func(g *freezer.Group) error { return g.AddTask(tid) })
}

func (k *kernel) AddTree(group string, pid int) error {
	return k.on(group, func(g *freezer.Group) error { return g.AddTree(pid) })
}

func (k *kernel) Processes(group string) ([]int, error) {
	return with(k, group, (*freezer.Group).Processes)
}

func (k *kernel) Tasks(group string) ([]int, error) {
	return with(k, group, (*freezer.Group).Tasks)
}

func (k *kernel) States(group string) (freezer.States, error) {
	return with(k, group, (*freezer.Group).States)
}

func (k *kernel) Blockers(group string) ([]freezer.Blocker, error) {
	return with(k, group, (*freezer.Group).Blockers)
}

func (k *kernel) Freeze(group string) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return k.on(group, func(g *freezer.Group) error { return g.Freeze(ctx) })
}

// Thaw is no success unless the group's own state is THAWED.
func (k *kernel) Thaw(group string) error {
	return k.on(group, func(g *freezer.Group) error { return g.Thaw() })
}

func (k *kernel) Kill(group string) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return k.on(group, func(g *freezer.Group) error { return g.Kill(ctx) })
}

// is says whether err is an errno's, by way of freezer.Errno.
func is(err error, errnos ...error) bool {
	for _, errno := range errnos {
		if errors.Is(freezer.Errno(err), errno) {
			return true
		}
	}
	return false
}
