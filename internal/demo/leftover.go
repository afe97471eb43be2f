package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// A demonstration's group is named by its PID, and locked (flock) as long as it
// lives. One that can be locked is what a killed demonstration left.
const stagePrefix = "demo-"

// claim makes the group of this process and locks it. Another demonstration can
// come between and take it for a leftover; then it is made again.
func claim(f *freezer.Freezer) (*freezer.Group, *os.File, error) {
	name := stagePrefix + strconv.Itoa(os.Getpid())
	for range 100 {
		g, err := f.Create(name)
		if err != nil && !errors.Is(err, freezer.ErrExist) {
			return nil, nil, err
		}
		if lock, err := lockDir(g.Dir()); err == nil {
			if g.Exists() {
				return g, lock, nil
			}
			_ = lock.Close()
		}
		time.Sleep(time.Millisecond)
	}
	return nil, nil, fmt.Errorf("%w: another demonstration has the group %s", freezer.ErrExist, name)
}

// lockDir locks a directory until the file is closed.
func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// sweep removes what demonstrations left that were killed, and returns the
// names of their groups. There is nothing else to remove: mounts and terminals
// of theirs went with them.
func sweep(f *freezer.Freezer) (removed []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	root, err := f.Group("/")
	if err != nil || !root.Exists() {
		return nil, err
	}
	groups, err := root.Children()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		pid, ok := strings.CutPrefix(g.Name(), stagePrefix)
		if _, notPID := strconv.Atoi(pid); !ok || notPID != nil {
			continue
		}
		lock, busy := lockDir(g.Dir())
		if busy != nil {
			continue // it is being played
		}
		failed := g.RemoveAll(ctx)
		_ = lock.Close()
		if failed == nil {
			removed = append(removed, g.Name())
		}
		err = errors.Join(err, failed)
	}
	return removed, err
}
