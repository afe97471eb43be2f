package freezer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Kill kills all tasks of the group and of its descendants, frozen or not, also
// where an ancestor is frozen, and returns when they are gone. The groups
// themselves stay, in the states they had.
//
// Tasks that cannot die (in an uninterruptible wait) make it return, at the end
// of ctx (or of DefaultTimeout), an error that matches ErrNotEmpty. A group that
// holds the caller is refused with ErrSelf.
func (g *Group) Kill(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		bounded, cancel := context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
		ctx = bounded
	}
	if dir, err := g.backend.Dir(os.Getpid()); err == nil && under(g.dir, dir) {
		return opError("kill", g.name, fmt.Errorf("%w: the caller itself is in it", ErrSelf))
	}
	return opError("kill", g.name, g.kill(ctx))
}

func (g *Group) kill(ctx context.Context) error {
	defer g.removeGrave()
	once := g.backend.Kill(g.dir)
	if once != nil && once != unix.EOPNOTSUPP {
		return once
	}
	for nap := 100 * time.Microsecond; ; nap = min(2*nap, 10*time.Millisecond) {
		all, err := g.Walk()
		if err != nil {
			return err
		}
		alive := 0
		for _, sub := range all {
			pids, err := g.backend.Procs(sub.dir)
			if err != nil && err != unix.ENOENT {
				return err
			}
			alive += len(pids)
			if once == nil {
				continue
			}
			if err := sub.killEach(pids); err != nil {
				return err
			}
		}
		if alive == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %d processes do not die: %s", ErrNotEmpty, alive, g.whyAlive())
		}
		sleep(nap)
	}
}

// killEach signals processes one by one. On cgroup1 a frozen task dies only
// when it is thawed, and below a frozen ancestor it cannot be: so tasks with
// SIGKILL pending are moved to a thawed group of our own, where they die before
// they run a single instruction. The caller repeats it until nobody is left, so
// that forks are caught.
func (g *Group) killEach(pids []int) error {
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("%w: process %d: %w", ErrPermission, pid, err)
		}
	}
	if g.backend.FrozenDie() || len(pids) == 0 {
		return nil
	}
	if frozen, err := g.cg.Frozen(); err == nil && !frozen {
		if parent, err := g.cg.ParentFreezing(); err == nil && !parent {
			if self, err := g.cg.Freezing(); err == nil && !self {
				return nil
			}
		}
	}
	grave, err := g.grave()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := g.backend.MoveProcess(grave, pid); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return nil
}

// graves are the places for the group in which the dead of cgroup1 are buried:
// in the tree, or, when that or an ancestor is frozen, further up.
func (g *Group) graves() []string {
	const name = hiddenPrefix + "grave"
	var dirs []string
	if g.f.root != "" && g.backend == g.f.backend {
		dirs = append(dirs, filepath.Join(g.f.root, name))
	}
	return append(dirs, filepath.Join(g.backend.mount, name))
}

func (g *Group) removeGrave() {
	if g.backend.FrozenDie() {
		return
	}
	for _, grave := range g.graves() {
		_ = unix.Rmdir(grave)
	}
}

func (g *Group) grave() (string, error) {
	var last error
	for _, grave := range g.graves() {
		if err := unix.Mkdir(grave, 0o755); err != nil && err != unix.EEXIST {
			last = err
			continue
		}
		cg := g.backend.open(grave)
		frozen, err := cg.ParentFreezing()
		cg.Close()
		if err == nil && !frozen {
			return grave, nil
		}
		_ = unix.Rmdir(grave)
		last = errors.Join(err, fmt.Errorf("%w: the group above %s is frozen", ErrUnsupported, grave))
	}
	return "", last
}

// whyAlive describes the first task that SIGKILL does not end.
func (g *Group) whyAlive() string {
	blockers, err := g.blockers(func(*taskInfo) bool { return true })
	if err != nil || len(blockers) == 0 {
		return "they are about to end"
	}
	return fmt.Sprintf("task %d (%s) %s", blockers[0].TID, blockers[0].Command, blockers[0].Reason)
}
