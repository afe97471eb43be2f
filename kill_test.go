package freezer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// below makes a group beside or below g.
func below(t *testing.T, g *freezer.Group, name string) *freezer.Group {
	t.Helper()
	f, err := freezer.Open(freezer.WithBackend(g.Backend()), freezer.WithRoot(strings.TrimSuffix(g.Dir(), "/"+g.Name())))
	must(t, err)
	made, err := f.Create(name)
	must(t, err)
	return made
}

// wantNoGraves looks for what Kill makes for itself on cgroup1.
func wantNoGraves(t *testing.T, g *freezer.Group) {
	t.Helper()
	for _, dir := range []string{filepath.Dir(g.Dir()), mountOf(t, g)} {
		left, err := filepath.Glob(fmt.Sprintf("%s/.freezer-grave-%d-*", dir, os.Getpid()))
		if err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

func mountOf(t *testing.T, g *freezer.Group) string {
	t.Helper()
	f, err := freezer.Open(freezer.WithBackend(g.Backend()))
	must(t, err)
	return f.Mount()
}

func TestKillLeavesNothingBehind(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		sub := below(t, g, "g/sub")
		for range 20 {
			must(t, sub.Add(freezertest.Sleeper(t)))
		}
		must(t, g.Freeze(t.Context()))
		must(t, sub.Kill(t.Context()))
		must(t, g.Kill(t.Context()))
		wantNoGraves(t, g)
		must(t, sub.Remove())
		must(t, g.Remove())
	})
}

func TestKillBelowAFrozenRootOfTheTree(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		f, err := freezer.Open(freezer.WithBackend(g.Backend()), freezer.WithRoot(filepath.Dir(g.Dir())))
		must(t, err)
		root, err := f.Group("/")
		must(t, err)
		must(t, g.Add(freezertest.Sleeper(t)))
		must(t, root.Freeze(t.Context()))
		must(t, g.Kill(t.Context()))
		wantNoGraves(t, g)
		must(t, root.Thaw())
	})
}

func TestManyKillAtOnce(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		var all sync.WaitGroup
		for i := range 6 {
			sub := below(t, g, fmt.Sprintf("g/%d", i))
			must(t, sub.Add(freezertest.Sleeper(t)))
			must(t, sub.Add(freezertest.Sleeper(t)))
			all.Go(func() {
				if err := g.Freeze(t.Context()); err != nil {
					t.Error(err)
				}
				if err := sub.Kill(t.Context()); err != nil {
					t.Error(err)
				}
				if pids, err := sub.Processes(); len(pids) > 0 || err != nil {
					t.Errorf("after Kill: %v, %v", pids, err)
				}
			})
		}
		all.Wait()
		freezertest.Eventually(t, "the dead are no longer in the way", func() bool {
			s, err := g.State()
			return err == nil && s == freezer.Frozen
		})
		wantNoGraves(t, g)
	})
}

func TestWhatDoesNotDieIsNamedAndStaysInItsGroup(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, release := block(t, g)
		wantLate(t, g.Freeze(soon(t), freezer.WithoutBlockers()), context.DeadlineExceeded)
		err := g.Kill(soon(t))
		if !errors.Is(err, freezer.ErrNotEmpty) || freezer.Errno(err) != syscall.EBUSY || !strings.Contains(err.Error(), fmt.Sprint(pid)) {
			t.Errorf("Kill: %v", err)
		}
		if !g.Contains(pid) {
			t.Errorf("process %d is not in its group any more", pid)
		}
		wantNoGraves(t, g)
		release()
		must(t, g.Kill(t.Context()))
	})
}

func TestAGroupNamedByItsPathIsKilledAndNotRemoved(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		f, err := freezer.Open(freezer.WithBackend(g.Backend()))
		must(t, err)
		path := strings.TrimPrefix(g.Dir(), f.Mount())
		for _, name := range []string{path, g.Dir()} {
			same, err := f.Group(name)
			must(t, err)
			if same.Dir() != g.Dir() || same.Name() != name {
				t.Errorf("%s is %s, named %s", name, same.Dir(), same.Name())
			}
			must(t, g.Add(freezertest.Sleeper(t)))
			must(t, same.Freeze(t.Context()))
			wantState(t, g, freezer.Frozen)
			must(t, same.Kill(t.Context()))
			must(t, same.Thaw())
			if err := same.Remove(); !errors.Is(err, freezer.ErrPermission) {
				t.Errorf("Remove: %v", err)
			}
		}
	})
}
