package freezer

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
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
// to thaw them are inside. To find out from the beginning who that is, and in
// which groups, takes half a millisecond, ten times a freeze; so it keeps what it
// knows until that can change, or for a moment.
type guard struct {
	mu      sync.Mutex
	moved   atomic.Int64 // when this process last moved any other
	mounts  mountinfo.Watch
	fuse    []string // devices of what is mounted
	known   circumstances
	held    []protected
	located int64 // when their groups were looked up
}

// guardAge is for how long it may go unnoticed that another program has moved a
// protected process.
const guardAge = 100 * time.Millisecond

// The guard's times are nanoseconds since this one, and 0 for never.
var began = time.Now()

func sinceBegan() int64 { return max(int64(time.Since(began)), 1) }

// circumstances are what it depends on who is protected.
type circumstances struct {
	ours   bool // a file system of this project is mounted
	using  bool // the caller uses a FUSE file system
	parent int  // PID of the caller's
	keeper processID
}

// A protected process must not be frozen.
type protected struct {
	pid    int
	why    string
	always bool              // not even by force
	dirs   map[string]string // by the name of the backend
}

// forget makes the next freeze look anew: somebody was moved.
func (gd *guard) forget() {
	gd.moved.Store(sinceBegan())
}

// valid says whether what was found out at a time can still be relied on.
func (gd *guard) valid(then, now int64) bool {
	return then != 0 && now-then < int64(guardAge) && then > gd.moved.Load()
}

// mayFreeze returns ErrSelf when a protected process is in the group or below.
// alone says that no other group is frozen with this one.
func (g *Group) mayFreeze(force, alone bool) error {
	gd := &g.f.guard
	now := sinceBegan()
	if gd.valid(g.cleared.Load(), now) {
		return nil
	}
	gd.mu.Lock()
	defer gd.mu.Unlock()
	inside := g.f.inside(g, alone, now)
	if len(inside) > 0 { // some may have ended, and others have their PIDs now
		g.f.protect(true)
		gd.located = 0
		inside = g.f.inside(g, alone, now)
	}
	if len(inside) == 0 {
		g.cleared.Store(now)
	}
	for _, p := range inside {
		if force && !p.always {
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

// inside returns the protected processes that are in the group or below. To
// list one group is faster than to look where each of them is: that takes 20 µs a
// process, because reading /proc/PID/cgroup takes the lock of all cgroups.
func (f *Freezer) inside(g *Group, alone bool, now int64) (in []protected) {
	if gd := &f.guard; !gd.valid(gd.located, now) {
		f.protect(false)
		if members, ok := g.members(alone); ok {
			for _, p := range gd.held {
				if slices.Contains(members, p.pid) {
					in = append(in, p)
				}
			}
			return in
		}
		if !f.locate() {
			f.protect(true)
			f.locate()
		}
		gd.located = now
	}
	for _, p := range f.guard.held {
		if dir, ok := p.dirs[g.backend.name]; ok && under(g.dir, dir) {
			in = append(in, p)
		}
	}
	return in
}

// members lists the processes of a group that has no groups below; it is false
// for one that has, and for one that had many processes: each takes 1 µs.
func (g *Group) members(alone bool) (pids []int, ok bool) {
	if !alone || g.many {
		return nil, false
	}
	var st unix.Stat_t
	err := g.files.Use(func(fd int) error { return unix.Fstat(fd, &st) })
	if err != nil || st.Nlink != 2 {
		return nil, false
	}
	pids, err = g.cg.Processes()
	g.many = len(pids) > 100
	return pids, err == nil
}

// admits refuses, with ErrSelf, to freeze a protected process, or a server of
// this project, by moving it into a frozen group. Another caller may go in itself.
func (g *Group) admits(pid int) error {
	if state, err := g.State(); err != nil || state == Thawed {
		return nil // the move itself tells what is wrong
	}
	if isServer(pid) {
		return fmt.Errorf("%w: process %d is a server of this project, and would be frozen there", ErrSelf, pid)
	}
	if pid == os.Getpid() {
		return nil
	}
	if p := g.f.protected(pid); p != nil {
		return fmt.Errorf("%w: process %d, %s, would be frozen there; thaw the group first", ErrSelf, p.pid, p.why)
	}
	return nil
}

// protected returns what is known of a process if it is a protected one.
func (f *Freezer) protected(pid int) (p *protected) {
	f.guard.mu.Lock()
	defer f.guard.mu.Unlock()
	for _, anew := range []bool{false, true} { // see mayFreeze
		f.protect(anew)
		i := slices.IndexFunc(f.guard.held, func(p protected) bool { return p.pid == pid })
		if i < 0 {
			return nil
		}
		p = &f.guard.held[i]
	}
	return p
}

// protect brings the list of protected processes up to date, when need be.
func (f *Freezer) protect(anew bool) {
	gd := &f.guard
	c := gd.known
	if mounts, changed := f.newMounts(); changed {
		gd.fuse, c.ours = fuseMounts(mounts)
		anew = true
	}
	c.parent, c.keeper, c.using = os.Getppid(), keeperID(), usesFuse(gd.fuse)
	if anew || c != gd.known {
		gd.held, gd.known = c.protected(), c
	}
}

// justNow is for how long what Open has read is taken for what is: long enough for
// a command, and too short for a server to be started meanwhile.
const justNow = 5 * time.Millisecond

// newMounts returns the mounts when they are not those of the last call any
// more. First it has those that Open has just read.
func (f *Freezer) newMounts() (mounts []mountinfo.Mount, changed bool) {
	if time.Since(f.opened) < justNow {
		return f.mounts, f.guard.held == nil
	}
	f.mounts = nil
	if !f.guard.mounts.Changed() {
		return nil, false
	}
	mounts, _ = mountinfo.Self()
	return mounts, true
}

// locate looks up where the protected processes are. It is false when one of
// them is gone.
func (f *Freezer) locate() bool {
	held, all := slices.Clone(f.guard.held), true
	for i, p := range held {
		dirs := map[string]string{}
		cgroups, err := proc.Cgroups(p.pid)
		all = all && err == nil
		for _, b := range f.backends() {
			dir, err := b.DirIn(cgroups)
			if b.name == Ptrace {
				dir, err = b.Dir(p.pid)
			}
			if err == nil {
				dirs[b.name] = dir
			}
		}
		held[i].dirs = dirs
	}
	f.guard.held = held
	return all
}

// protected lists the processes that the caller cannot do without.
func (c circumstances) protected() []protected {
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
	if c.keeper.pid != 0 && c.keeper.pid != self && !c.keeper.ended() {
		list = append(list, protected{pid: c.keeper.pid, why: "the keeper, which ends leases", always: true})
	}
	if !c.ours && !c.using {
		return list
	}
	// With the server of a mount in it a group must not be frozen whoever asks:
	// the clients, and nobody else, could thaw it.
	list[1].always = c.ours && (isServer(self) || servesFuse(self))
	for _, pid := range proc.All() {
		switch {
		case pid == self:
		case c.ours && isServer(pid):
			list = append(list, protected{pid: pid, why: "a server of this project", always: true})
		case c.using && servesFuse(pid):
			list = append(list, protected{pid: pid, why: "which serves a file system that the caller uses"})
		}
	}
	return list
}

// fuseMounts returns the devices of all FUSE file systems, and whether one of
// this project is among them.
func fuseMounts(mounts []mountinfo.Mount) (devices []string, ours bool) {
	for _, m := range mounts {
		if len(m.Type) >= 4 && m.Type[:4] == "fuse" && m.Type != "fusectl" {
			devices = append(devices, m.Device)
			ours = ours || ourMount(m)
		}
	}
	return devices, ours
}

// ourMount says whether it is a file system of this project.
func ourMount(m mountinfo.Mount) bool { return m.Type == "fuse.freezer" || m.Type == "fuse.cgroup" }

// usesFuse says whether the caller's program, directory or one of its standard
// descriptors lies on one of these devices. No server is asked for it: that of a
// frozen group would not answer.
func usesFuse(devices []string) bool {
	if len(devices) == 0 {
		return false
	}
	var st unix.Statx_t
	for _, file := range []string{"cwd", "root", "exe", "fd/0", "fd/1", "fd/2"} {
		err := unix.Statx(unix.AT_FDCWD, "/proc/self/"+file, unix.AT_STATX_DONT_SYNC, 0, &st)
		if err == nil && slices.Contains(devices, fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)) {
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
