package tracer

import (
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/kernfs"
)

// A Group is the freezer of one group. Its methods may be called concurrently.
// When another group has got its name meanwhile they give ENODEV.
type Group struct {
	h    *Hierarchy
	dir  *kernfs.Dir
	look atomic.Pointer[string] // how Frozen asks the next time
}

// Open names the freezer of the group at dir.
func (h *Hierarchy) Open(dir *kernfs.Dir) *Group { return &Group{h: h, dir: dir} }

// ask sends a request about this group.
func (g *Group) ask(begin bool, verb string, more ...string) (answer string, err error) {
	path, err := g.h.path(g.dir.Path())
	if err != nil {
		return "", err
	}
	id, err := g.ident()
	if err != nil {
		return "", err
	}
	return g.h.ask(begin, verb, id, path+strings.Join(more, ""))
}

// ident is the directory's identity. The error is ENODEV when it has been removed.
func (g *Group) ident() (id uint64, err error) {
	var st unix.Statx_t
	err = g.dir.Use(func(fd int) (err error) {
		st, id, err = identify(fd, "", unix.AT_EMPTY_PATH)
		return err
	})
	if err == nil && st.Nlink == 0 {
		err = unix.ENODEV
	}
	return id, err
}

// Prepare starts the tracer when there is none.
func (g *Group) Prepare() error {
	_, err := g.ask(true, "hello")
	return err
}

// Freezing reads the group's self state.
func (g *Group) Freezing() (bool, error) { return g.state("state", 0) }

// ParentFreezing says whether any ancestor is freezing.
func (g *Group) ParentFreezing() (bool, error) { return g.state("state", 1) }

// Frozen says whether each task of the group and its descendants is held. The
// first time after SetFreezing and Renew it waits some milliseconds for that: to
// ask the tracer without pause would slow it down.
func (g *Group) Frozen() (bool, error) {
	if verb := g.look.Swap(nil); verb != nil {
		return g.state(*verb, 2)
	}
	return g.state("state", 2)
}

// How Frozen asks.
var untilSettled, untilFrozen = "settle", "wait"

func (g *Group) state(verb string, which int) (bool, error) {
	answer, err := g.ask(false, verb)
	if err == errNobody {
		return false, nil
	}
	if err == nil && len(answer) != 3 {
		err = unix.EPROTO
	}
	return err == nil && answer[which] == '1', err
}

// SetFreezing asks for the self state.
func (g *Group) SetFreezing(on bool) error {
	if on {
		_, err := g.ask(true, "freeze")
		g.look.Store(&untilSettled)
		return err
	}
	return g.thaw("")
}

// ThawInvisibly is SetFreezing(false) by way of a session. The tracer looks after
// the calls that start again.
func (g *Group) ThawInvisibly(s *invisible.Session) error {
	calls, err := s.MarshalBinary()
	if err != nil {
		return err
	}
	return g.thaw("\x00" + string(calls))
}

func (g *Group) thaw(how string) error {
	_, err := g.ask(false, "thaw", how)
	if err == errNobody {
		err = nil
	}
	return err
}

// Renew asks for nothing: the tracer looks again by itself. But see Frozen.
func (g *Group) Renew() error {
	g.look.Store(&untilFrozen)
	return nil
}

// Event is EOPNOTSUPP: see Frozen.
func (g *Group) Event(func(fd int) error) error { return unix.EOPNOTSUPP }

// Processes lists the processes in the group itself.
func (g *Group) Processes() ([]int, error) {
	if _, err := g.ident(); err != nil {
		return nil, err
	}
	return g.h.Procs(g.dir.Path())
}

// Tasks lists the tasks in the group itself.
func (g *Group) Tasks() ([]int, error) {
	if _, err := g.ident(); err != nil {
		return nil, err
	}
	return g.h.Threads(g.dir.Path())
}

// Locked calls do with a descriptor to flock.
func (g *Group) Locked(do func(fd int) error) error { return g.dir.Use(do) }
