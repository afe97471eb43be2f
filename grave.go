package freezer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A grave is where one Kill lets the frozen of cgroup1 die. A frozen task dies
// only when it is thawed, and below a frozen ancestor it cannot be: so tasks
// with SIGKILL pending are moved to a thawed group of our own, where they die
// before they run a single instruction of theirs.
type grave struct {
	g    *Group // that is killed
	at   *Group // nil before the first burial
	from map[int]string
}

// graveName begins the names of graves; each Kill has one of its own, lest one
// should take another's away.
const graveName = hiddenPrefix + "grave-"

var graves atomic.Int64

// bury moves processes out of dir.
func (d *grave) bury(dir string, pids []int) error {
	if d.at == nil {
		if err := d.dig(); err != nil {
			return err
		}
	}
	for _, pid := range pids {
		err := d.g.backend.hierarchy.MoveProcess(d.at.dir, pid)
		switch err {
		case nil:
		case unix.ESRCH:
			continue
		case unix.ENOENT, unix.ENODEV: // Clean took it away while it was empty
			d.at = nil
			return nil // and the caller, who repeats it, gets another
		default:
			return explainMove(pid, err)
		}
		d.from[pid] = dir
	}
	return nil
}

// dig makes the group in the first place where nothing is frozen.
func (d *grave) dig() error {
	name := fmt.Sprintf("%s%d-%d", graveName, os.Getpid(), graves.Add(1))
	last := ErrUnsupported
	for _, dir := range d.g.burialGrounds() {
		at := d.g.f.handle(name, filepath.Join(dir, name), d.g.backend)
		if last = unix.Mkdir(at.dir, 0o755); last != nil {
			continue
		}
		state, err := at.State()
		if err == nil && state == Thawed {
			d.at, d.from = at, map[int]string{}
			return nil
		}
		last = errors.Join(err, fmt.Errorf("%w: frozen tasks die only where nothing is frozen, and %s is", ErrUnsupported, dir))
		_ = at.rmdir()
	}
	return last
}

// burialGrounds are the directories in which graves are made: the tree's root, or
// the group above one that is not in the tree, and all above that.
func (g *Group) burialGrounds() []string {
	first := filepath.Dir(g.dir)
	if under(g.f.root, g.dir) && g.f.root != "" {
		first = g.f.root
	}
	var dirs []string
	for dir := first; under(g.backend.mount, dir); dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
	}
	return dirs
}

// alive is how many have not died yet.
func (d *grave) alive() int {
	if d.at == nil {
		return 0
	}
	pids, _ := d.g.backend.Procs(d.at.dir)
	return len(pids)
}

// close puts those that do not die back to where they were.
func (d *grave) close() {
	if d.at == nil {
		return
	}
	pids, _ := d.g.backend.Procs(d.at.dir)
	for _, pid := range pids {
		_ = d.g.backend.hierarchy.MoveProcess(d.from[pid], pid)
	}
	_ = d.at.rmdir()
	d.at.Close()
	d.at = nil
}

// removeGraves removes what a Kill that was itself killed has left.
func (g *Group) removeGraves() {
	for _, dir := range g.burialGrounds() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), graveName) {
				_ = unix.Rmdir(filepath.Join(dir, e.Name()))
			}
		}
	}
}
