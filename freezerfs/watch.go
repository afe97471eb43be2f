package freezerfs

import (
	"bytes"
	"encoding/binary"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/ptrace/tracer"
)

// A watcher looks after the groups of a tree and finds out which are released.
// It belongs to one goroutine.
type watcher struct {
	fs       *fileSystem
	inotify  int
	byWatch  map[int]*watched // by watch of the directory, and of cgroup.events
	byID     map[uint64]*watched
	was      map[uint64]bool // occupied, as an earlier watcher saw it
	doubtful map[*watched]bool
	tick     time.Duration // how often must be asked, where nothing tells
	lost     bool          // events are missing
	agent    int           // watch of the file that has the agent, which goes with the root
	rootGone bool
}

// A watched is one group.
type watched struct {
	path     string // from the root of the mount
	id       uint64
	events   int  // watch of cgroup.events, 0 when there is none
	notify   bool // its notify_on_release
	occupied bool // has tasks or children, or had when last seen
}

const watchFor = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_ONLYDIR

// newWatcher watches the root of the tree, and all groups if there is an agent.
func newWatcher(fs *fileSystem, all bool, was map[uint64]bool) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	w := &watcher{
		fs: fs, inotify: fd, was: was, tick: shortTick,
		byWatch: map[int]*watched{}, byID: map[uint64]*watched{}, doubtful: map[*watched]bool{},
	}
	if all {
		err = w.add("/", 0)
	}
	if err == nil {
		w.agent, err = unix.InotifyAddWatch(fd, fs.agentKeeper(), unix.IN_ATTRIB)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watcher) close() { unix.Close(w.inotify) }

func (w *watcher) dir(path string) string {
	if path == "/" {
		return w.fs.f.Root()
	}
	return w.fs.f.Root() + path
}

// add watches a group and those below it. That one of them has vanished
// meanwhile is no error.
func (w *watcher) add(path string, id uint64) error {
	dir := w.dir(path)
	watch, err := unix.InotifyAddWatch(w.inotify, dir, watchFor)
	if err != nil {
		return err
	}
	g := w.byWatch[watch]
	if g == nil { // else it appeared while its parent was looked through
		g = &watched{path: path, id: id}
		w.byWatch[watch], w.byID[id] = g, g
	}
	w.flag(g)
	if w.was[id] {
		w.occupy(g)
	}
	var below []fuse.DirEntry
	if err := readDirs(dir, func(e fuse.DirEntry) {
		if freezer.CheckName(e.Name) == nil {
			below = append(below, e)
		}
	}); err != nil && err != unix.ENOENT {
		return err
	}
	for _, e := range below {
		if err := w.add(child(path, e.Name), e.Ino); err != nil && err != unix.ENOENT {
			return err
		}
	}
	return nil
}

func child(path, name string) string {
	if path == "/" {
		return path + name
	}
	return path + "/" + name
}

// flag reads a group's notify_on_release. One that is empty when it is set is
// not released by that.
func (w *watcher) flag(g *watched) {
	before := g.notify
	on, _ := w.fs.getFlag(w.dir(g.path), notifyFile)
	if g.notify = on && g.path != "/"; !g.notify || before {
		return
	}
	if g.events == 0 && w.fs.f.Backend() == freezer.Cgroup2 {
		if watch, err := unix.InotifyAddWatch(w.inotify, w.dir(g.path)+"/cgroup.events", unix.IN_MODIFY); err == nil {
			g.events = watch
			w.byWatch[watch] = g
		}
	}
	g.occupied = w.isOccupied(g)
}

// occupy says that the group has, or has had, tasks or children.
func (w *watcher) occupy(g *watched) {
	g.occupied = true
	w.doubt(g)
}

// doubt has a group looked at.
func (w *watcher) doubt(g *watched) {
	if g.notify {
		w.doubtful[g] = true
	}
}

// sleep waits until there is something to do.
func (w *watcher) sleep(wake int) {
	timeout := -1
	if w.fs.f.Backend() != freezer.Cgroup2 && w.anyOccupied() {
		timeout = int(w.tick.Milliseconds())
	}
	fds := []unix.PollFd{{Fd: int32(w.inotify), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	if n, _ := unix.Poll(fds, timeout); n == 0 {
		w.askAll()
	}
}

// read notes what has happened.
func (w *watcher) read() {
	buf := make([]byte, 64<<10)
	for !w.lost && !w.rootGone {
		n, err := unix.Read(w.inotify, buf)
		if n <= 0 || err != nil {
			return
		}
		for text := buf[:n]; len(text) >= unix.SizeofInotifyEvent; {
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(text[12:]))
			watch := int(int32(binary.NativeEndian.Uint32(text)))
			name, _, _ := bytes.Cut(text[unix.SizeofInotifyEvent:size], []byte{0})
			w.event(watch, binary.NativeEndian.Uint32(text[4:]), string(name))
			text = text[size:]
		}
	}
}

func (w *watcher) event(watch int, mask uint32, name string) {
	g := w.byWatch[watch]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		w.lost = true
	case mask&unix.IN_IGNORED != 0:
		w.forget(watch)
	case g == nil: // the agent: that is looked at each time
	case watch == g.events:
		w.doubt(g)
	case mask&unix.IN_ISDIR != 0 && mask&unix.IN_CREATE != 0:
		w.occupy(g)
		w.appeared(child(g.path, name))
	case mask&unix.IN_ISDIR != 0 && mask&unix.IN_DELETE != 0:
		w.doubt(g)
	case mask&unix.IN_MODIFY != 0 && (name == "cgroup.procs" || name == "cgroup.threads" || name == "tasks"):
		w.occupy(g)
	case mask&unix.IN_ATTRIB != 0 && name == tracer.ChangesName: // a process has come
		w.occupy(g)
	case mask&unix.IN_MODIFY != 0 && name == notifyFile, mask&unix.IN_ATTRIB != 0 && name == "":
		w.flag(g)
	}
}

func (w *watcher) appeared(path string) {
	var st unix.Stat_t
	if unix.Stat(w.dir(path), &st) != nil {
		return
	}
	if err := w.add(path, st.Ino); err != nil && err != unix.ENOENT {
		w.fs.releaser.complain(err)
	}
}

// forget drops a watch whose directory or file is gone.
func (w *watcher) forget(watch int) {
	if watch == w.agent {
		w.rootGone = true
	}
	g := w.byWatch[watch]
	delete(w.byWatch, watch)
	if g == nil || watch == g.events {
		return
	}
	delete(w.doubtful, g)
	if w.byID[g.id] == g {
		delete(w.byID, g.id)
	}
}

// On cgroup1, and by ptrace, nothing tells that a group has become empty. Asking takes at most
// a fiftieth of a processor.
const (
	shortTick = 50 * time.Millisecond
	tickShare = 50
)

func (w *watcher) anyOccupied() bool {
	for _, g := range w.byID {
		if g.notify && g.occupied {
			return true
		}
	}
	return false
}

func (w *watcher) askAll() {
	start := time.Now()
	for _, g := range w.byID {
		if g.occupied && !w.isOccupied(g) {
			w.doubt(g)
		}
	}
	w.tick = max(shortTick, tickShare*time.Since(start))
}

// released returns the groups that have become empty, by their paths.
func (w *watcher) released() (paths []string) {
	for g := range w.doubtful {
		now := w.isOccupied(g)
		if g.notify && g.occupied && !now {
			paths = append(paths, g.path)
		}
		g.occupied = now
	}
	clear(w.doubtful)
	return paths
}

// isOccupied says whether the group has tasks or children. One that is gone is
// not released any more, and counts as occupied.
func (w *watcher) isOccupied(g *watched) bool {
	dir := w.dir(g.path)
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Nlink > 2 || g.id != 0 && st.Ino != g.id {
		return true
	}
	switch w.fs.f.Backend() {
	case freezer.Cgroup1:
		text, err := kernfs.ReadFile(dir + "/tasks")
		return err != nil || len(text) > 0
	case freezer.Ptrace:
		g, err := w.fs.f.Group(strings.TrimPrefix(g.path, "/"))
		if err != nil {
			return true
		}
		defer g.Close()
		pids, err := g.Processes()
		return err != nil || len(pids) > 0
	}
	text, err := kernfs.ReadFile(dir + "/cgroup.events")
	return err != nil || bytes.Contains(text, []byte("populated 1"))
}

// occupied are the groups that have tasks or children, by number.
func (w *watcher) occupied() map[uint64]bool {
	all := map[uint64]bool{}
	for id, g := range w.byID {
		if g.occupied {
			all[id] = true
		}
	}
	return all
}
