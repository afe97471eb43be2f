package freezer

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

// serverName is the program that serves this project's file systems. Its
// clients hang beyond kill -9 while it is frozen.
const serverName = "freezerd"

// A guard knows which groups must not be frozen, because those who would have
// to thaw them are inside. Finding out takes some hundred microseconds, several
// times a freeze, so the answer is kept for a moment.
type guard struct {
	mu    sync.Mutex
	until time.Time
	held  []protected
}

const guardAge = 100 * time.Millisecond

// A protected process must not be frozen.
type protected struct {
	pid    int
	why    string
	always bool              // not even by force
	dirs   map[string]string // by the name of the backend
}

// forget makes the next freeze look anew: somebody was moved.
func (gd *guard) forget() {
	gd.mu.Lock()
	gd.until = time.Time{}
	gd.mu.Unlock()
}

// mayFreeze returns ErrSelf when a protected process is in the group or below.
func (g *Group) mayFreeze(force bool) error {
	for _, p := range g.f.protected() {
		if dir, ok := p.dirs[g.backend.name]; !ok || !under(g.dir, dir) || force && !p.always {
			continue
		}
		advice := "; force it if that is meant"
		if p.always {
			advice = ""
		}
		return fmt.Errorf("%w: process %d, %s, is in it%s", ErrSelf, p.pid, p.why, advice)
	}
	return nil
}

func (f *Freezer) protected() []protected {
	f.guard.mu.Lock()
	defer f.guard.mu.Unlock()
	now := time.Now()
	if now.Before(f.guard.until) {
		return f.guard.held
	}
	list := vital()
	for i := range list {
		list[i].dirs = map[string]string{}
		for _, b := range append([]*backend{f.backend}, f.others...) {
			if dir, err := b.Dir(list[i].pid); err == nil {
				list[i].dirs[b.name] = dir
			}
		}
	}
	f.guard.held, f.guard.until = list, now.Add(guardAge)
	return list
}

// vital lists the processes that the caller cannot do without.
func vital() []protected {
	self := os.Getpid()
	list := []protected{
		{pid: 1, why: "the init process", always: true},
		{pid: self, why: "the caller itself"},
	}
	for _, pid := range proc.Ancestors(self) {
		if pid != 1 {
			list = append(list, protected{pid: pid, why: "which the caller descends from"})
		}
	}
	ours, fuse := fuseMounts()
	if !ours && !fuse {
		return list
	}
	using := fuse && usesFuse()
	for _, pid := range proc.All() {
		switch {
		case pid == self:
		case ours && isServer(pid):
			list = append(list, protected{pid: pid, why: "a server of this project", always: true})
		case using && servesFuse(pid):
			list = append(list, protected{pid: pid, why: "which serves a file system that the caller uses"})
		}
	}
	return list
}

// fuseMounts says whether a file system of this project, and whether any FUSE
// file system at all, is mounted.
func fuseMounts() (ours, any bool) {
	mounts, _ := mountinfo.Self()
	for _, m := range mounts {
		if len(m.Type) >= 4 && m.Type[:4] == "fuse" && m.Type != "fusectl" {
			any = true
			ours = ours || m.Type == "fuse.freezer" || m.Type == "fuse.cgroup"
		}
	}
	return ours, any
}

// usesFuse says whether the caller's program, directory or one of its standard
// descriptors lies on a FUSE file system.
func usesFuse() bool {
	for _, file := range []string{"cwd", "root", "exe", "fd/0", "fd/1", "fd/2"} {
		var st unix.Statfs_t
		if unix.Statfs("/proc/self/"+file, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			return true
		}
	}
	return false
}

func isServer(pid int) bool {
	text, err := kernfs.ReadFile(proc.Path(pid, "comm"))
	return err == nil && string(text) == serverName+"\n"
}

// servesFuse says whether the process has a FUSE connection open.
func servesFuse(pid int) bool {
	fds, err := os.ReadDir(proc.Path(pid, "fd"))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(proc.Path(pid, "fd/"+fd.Name())); err == nil && to == "/dev/fuse" {
			return true
		}
	}
	return false
}
