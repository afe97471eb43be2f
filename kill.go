package freezer

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kill kills all tasks of the group and of its descendants, frozen or not, also
// where an ancestor is frozen, and returns when they are gone. The groups
// themselves stay, in the states they had.
//
// Tasks that cannot die (in an uninterruptible wait) stay where they are, and
// make it return, at the end of ctx (or of DefaultTimeout), an error that matches
// ErrNotEmpty. A group that holds the caller is refused with ErrSelf.
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
	once := g.backend.Kill(g.dir)
	if once != nil && once != unix.EOPNOTSUPP {
		return once
	}
	dead := grave{g: g}
	defer dead.close()
	for nap := 100 * time.Microsecond; ; nap = min(2*nap, 10*time.Millisecond) {
		all, err := g.Walk()
		if err != nil {
			return err
		}
		alive := dead.alive()
		for _, sub := range all {
			pids, err := g.backend.Procs(sub.dir)
			if err == unix.ENOENT && sub != g {
				continue
			}
			if err != nil {
				return err
			}
			alive += len(pids)
			if once == nil {
				continue
			}
			if err := sub.killEach(pids, &dead); err != nil {
				return err
			}
		}
		if alive == 0 {
			return nil
		}
		if ctx.Err() != nil {
			dead.close() // the task that does not die is to be found where it was
			return fmt.Errorf("%w: %d processes do not die: %s", ErrNotEmpty, alive, g.whyAlive())
		}
		sleep(nap)
	}
}

// killEach signals processes one by one, and buries those that could not die
// where they are. The caller repeats it until nobody is left, so that forks are
// caught.
func (g *Group) killEach(pids []int, dead *grave) error {
	for _, pid := range pids {
		if pid == os.Getpid() { // a thread of the caller
			return fmt.Errorf("%w: the caller itself is in it", ErrSelf)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return fmt.Errorf("%w: process %d: %w", ErrPermission, pid, err)
		}
	}
	if g.backend.FrozenDie() || len(pids) == 0 {
		return nil
	}
	if state, err := g.State(); err != nil || state == Thawed {
		return nil // whatever is wrong, the caller will meet it again
	}
	return dead.bury(g.dir, pids)
}

// whyAlive describes the first task that SIGKILL does not end.
func (g *Group) whyAlive() string {
	blockers, err := g.blockers(func(*taskInfo) bool { return true })
	if err != nil || len(blockers) == 0 {
		return "they are about to end"
	}
	return fmt.Sprintf("task %d (%s) %s", blockers[0].TID, blockers[0].Command, blockers[0].Reason)
}
