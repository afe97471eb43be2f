package freezer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// The kinds of events.
const (
	EventState   = "state"   // self, parent or effective state are not what they were
	EventArrived = "arrived" // a process is in the group that was not
	EventExited  = "exited"  // a process ended
	EventLeft    = "left"    // a process was moved elsewhere
	EventBlocker = "blocker" // a task keeps the group FREEZING for some time now
	EventCreated = "created" // a group is there that was not
	EventRemoved = "removed"
)

// An Event is something that happened to a group.
type Event struct {
	Time    time.Time `json:"time"`
	Group   string    `json:"group"`
	Kind    string    `json:"event"`
	States  *States   `json:"states,omitempty"`  // of EventState, and of the first event of each group
	PID     int       `json:"pid,omitempty"`     // of EventArrived, EventExited, EventLeft
	Blocker *Blocker  `json:"blocker,omitempty"` // of EventBlocker
}

// Times of watching.
const (
	settleFirst  = time.Millisecond       // a freezing group is looked at again after this, then after twice …
	settleLast   = 100 * time.Millisecond // … up to this long
	blockerAfter = 200 * time.Millisecond // a task is a blocker when the group is FREEZING for so long
	slowRead     = time.Second            // for what raises no event
)

// Watch reports what happens to groups and to all below them, or to the whole
// tree when none is named, until ctx ends. It begins with an EventState for each
// group that is there and an EventArrived for each process.
//
// It sleeps until the kernel has something to tell. States, created and removed
// groups, and processes that somebody moves in are seen at once; forks and exits
// too where the caller is root in the first PID namespace. What the kernel does
// not tell (else, and of processes that are moved out) is read once a second, of
// the groups that were named only. What comes and goes faster than it is looked
// at is not seen.
func (f *Freezer) Watch(ctx context.Context, groups ...*Group) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := &watcher{f: f, yield: yield, byDir: map[string]*watched{}, byWatch: map[int]*watched{}, groupOf: map[int]*watched{}, todo: map[*watched]bool{}, due: map[*watched]time.Time{}}
		err := w.run(ctx, groups)
		if err != nil && !errors.Is(err, errStopped) {
			yield(Event{}, opError("watch", "", err))
		}
	}
}

// errStopped ends a watch whose reader has had enough, or whose context ended.
var errStopped = errors.New("stopped")

type watcher struct {
	f       *Freezer
	yield   func(Event, error) bool
	inotify int
	forks   int // socket of the proc connector, -1 when there is none
	byDir   map[string]*watched
	byWatch map[int]*watched
	groupOf map[int]*watched       // by PID
	todo    map[*watched]bool      // something happened to these
	due     map[*watched]time.Time // these are looked at then in any case
}

// watched is what was last seen of a group.
type watched struct {
	g         *Group
	named     bool // by the caller
	states    States
	pids      map[int]bool
	freezing  time.Time     // since when it is FREEZING
	settle    time.Duration // how long until the next look while it is
	explained map[int]bool  // blockers reported
}

func (w *watcher) run(ctx context.Context, groups []*Group) (err error) {
	w.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(w.inotify)
	w.forks = listenForks()
	if w.forks >= 0 {
		defer unix.Close(w.forks)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(stop)
	defer context.AfterFunc(ctx, func() { _, _ = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })()

	named := len(groups) > 0
	if !named {
		if groups, err = w.f.Groups(); err != nil {
			return err
		}
		if err := w.watchRoot(); err != nil {
			return err
		}
	}
	for _, g := range groups {
		if err := w.add(g, named); err != nil {
			return err
		}
	}
	for {
		next, err := w.look()
		if err != nil {
			return err
		}
		timeout := unix.NsecToTimespec(int64(next))
		fds := []unix.PollFd{{Fd: int32(stop), Events: unix.POLLIN}, {Fd: int32(w.inotify), Events: unix.POLLIN}, {Fd: int32(w.forks), Events: unix.POLLIN}}
		if _, err := unix.Ppoll(fds, &timeout, nil); err != nil && err != unix.EINTR {
			return err
		}
		if ctx.Err() != nil {
			return errStopped
		}
		w.readInotify()
		w.readForks()
	}
}

// watchRoot watches for groups of the tree that are made later.
func (w *watcher) watchRoot() error {
	root, err := w.f.Group("/")
	if err != nil {
		return err
	}
	if !root.Exists() {
		if err := w.f.makeRoot(); err != nil {
			return err
		}
	}
	wd, err := unix.InotifyAddWatch(w.inotify, root.dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR)
	if err != nil {
		return err
	}
	w.byWatch[wd] = &watched{g: root}
	return nil
}

// add watches a group and what is below it.
func (w *watcher) add(g *Group, named bool) error {
	if w.byDir[g.dir] != nil {
		return nil
	}
	x := &watched{g: g, named: named, pids: map[int]bool{}}
	// The directory tells of its files that somebody writes, and of its children.
	// Changes that the kernel makes to cgroup.events show only to who watches that.
	watches := []struct {
		path string
		mask uint32
	}{
		{g.dir, unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_ONLYDIR},
		{g.dir + "/cgroup.events", unix.IN_MODIFY},
	}
	for i, one := range watches {
		wd, err := unix.InotifyAddWatch(w.inotify, one.path, one.mask)
		switch {
		case err == unix.ENOENT && i > 0: // cgroup1
		case err == unix.ENOENT && !named: // it vanished meanwhile
			return nil
		case err == unix.ENOSPC:
			return fmt.Errorf("%w: too many groups: raise /proc/sys/fs/inotify/max_user_watches", err)
		case err != nil:
			return err
		default:
			w.byWatch[wd] = x
		}
	}
	w.byDir[g.dir], w.todo[x] = x, true
	children, err := g.Children()
	if errors.Is(err, ErrNotExist) && !named {
		return nil
	}
	for _, c := range children {
		if err := w.add(c, false); err != nil {
			return err
		}
	}
	return err
}

func (w *watcher) report(x *watched, e Event) error {
	e.Time, e.Group = time.Now(), x.g.name
	if !w.yield(e, nil) {
		return errStopped
	}
	return nil
}

// look looks at the groups that something happened to or whose time has come,
// and tells when the next one's time comes.
func (w *watcher) look() (next time.Duration, err error) {
	now := time.Now()
	for x, due := range w.due {
		if !now.Before(due) {
			w.todo[x] = true
		}
	}
	for x := range w.todo { // lookAt may add more, which the loop may meet or not
		delete(w.todo, x)
		err := w.lookAt(x)
		x.g.Close() // thousands of idle groups need no descriptors
		if err != nil {
			return 0, err
		}
		w.plan(x)
	}
	if len(w.todo) > 0 {
		return 0, nil
	}
	next = time.Hour
	for _, due := range w.due {
		next = min(next, max(time.Until(due), 0))
	}
	return next, nil
}

// plan decides when to look at a group that raises no event.
func (w *watcher) plan(x *watched) {
	delete(w.due, x)
	switch {
	case w.byDir[x.g.dir] != x: // removed
	case x.states.Effective == Freezing:
		x.settle = min(max(2*x.settle, settleFirst), settleLast)
		w.due[x] = time.Now().Add(x.settle)
	case x.named:
		w.due[x] = time.Now().Add(slowRead)
	}
}

func (w *watcher) lookAt(x *watched) error {
	s, err := x.g.States()
	if errors.Is(err, ErrNotExist) {
		return w.removed(x)
	}
	if err != nil {
		return err
	}
	if first := x.explained == nil; first || s != x.states {
		if s.Effective != Freezing || first || x.states.Effective != Freezing {
			x.explained, x.freezing, x.settle = map[int]bool{}, time.Now(), 0
		}
		if !first {
			w.markBelow(x)
		}
		x.states = s
		if err := w.report(x, Event{Kind: EventState, States: &s}); err != nil {
			return err
		}
	}
	if err := w.members(x); err != nil {
		return err
	}
	if s.Effective == Freezing && time.Since(x.freezing) > blockerAfter {
		return w.blockers(x)
	}
	return nil
}

func (w *watcher) removed(x *watched) error {
	for pid := range x.pids {
		delete(w.groupOf, pid)
	}
	delete(w.byDir, x.g.dir)
	x.g.Close()
	return w.report(x, Event{Kind: EventRemoved})
}

// members compares the group's processes with those that were there.
func (w *watcher) members(x *watched) error {
	pids, err := x.g.backend.Procs(x.g.dir)
	if err != nil {
		return nil // it vanished: the next look tells
	}
	slices.Sort(pids)
	gone := maps.Clone(x.pids)
	for _, pid := range pids {
		if gone[pid] {
			delete(gone, pid)
			continue
		}
		x.pids[pid], w.groupOf[pid] = true, x
		if err := w.report(x, Event{Kind: EventArrived, PID: pid}); err != nil {
			return err
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(gone)) {
		delete(x.pids, pid)
		if w.groupOf[pid] == x {
			delete(w.groupOf, pid)
		}
		kind := EventLeft
		if s, err := proc.ReadStat(pid); err != nil || s.State == 'Z' || s.State == 'X' {
			kind = EventExited
		}
		if err := w.report(x, Event{Kind: kind, PID: pid}); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) blockers(x *watched) error {
	blockers, err := x.g.Blockers()
	if err != nil {
		return nil // it vanished, or is not ours to look at
	}
	for _, b := range blockers {
		if x.explained[b.TID] {
			continue
		}
		x.explained[b.TID] = true
		if err := w.report(x, Event{Kind: EventBlocker, Blocker: &b}); err != nil {
			return err
		}
	}
	return nil
}

// mark has a group looked at. The root of the tree is not one of the groups.
func (w *watcher) mark(x *watched) {
	if w.byDir[x.g.dir] == x {
		w.todo[x] = true
	}
}

// markBelow marks what is below a group that changed its state.
func (w *watcher) markBelow(x *watched) {
	for _, y := range w.byDir {
		if y != x && under(x.g.dir, y.g.dir) {
			w.todo[y] = true
		}
	}
}

func (w *watcher) markAll() {
	for _, x := range w.byDir {
		w.todo[x] = true
	}
}

// readInotify marks the groups that something happened to.
func (w *watcher) readInotify() {
	var buf [64 << 10]byte
	for {
		n, err := unix.Read(w.inotify, buf[:])
		if err != nil || n <= 0 {
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			e := parseInotify(buf[at:n])
			at += e.size
			if e.mask&unix.IN_Q_OVERFLOW != 0 {
				w.markAll()
				continue
			}
			x := w.byWatch[e.watch]
			if x == nil {
				continue
			}
			w.mark(x)
			if e.mask&unix.IN_IGNORED != 0 {
				delete(w.byWatch, e.watch)
			}
			if e.mask&unix.IN_ISDIR == 0 {
				continue
			}
			if e.mask&unix.IN_CREATE != 0 {
				w.created(x)
			} else if child := w.byDir[x.g.dir+"/"+e.name]; child != nil {
				w.todo[child] = true
			}
		}
	}
}

// created watches the children of a group that it did not have before.
func (w *watcher) created(parent *watched) {
	children, err := parent.g.Children()
	if err != nil {
		return
	}
	for _, c := range children {
		if w.byDir[c.dir] == nil && w.add(c, false) == nil && w.byDir[c.dir] != nil {
			_ = w.report(w.byDir[c.dir], Event{Kind: EventCreated})
		}
	}
}
