package freezerfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/audit"
)

// ask reads something of the group that the file belongs to, and makes sure that
// it was of that group and not of a later one of the same name.
func ask[T any](fs *fileSystem, h *handle, read func(*freezer.Group) (T, error)) (answer T, err error) {
	g, err := fs.recent.open(fs, h.node)
	if err != nil {
		return answer, err
	}
	answer, err = read(g)
	if err == nil {
		err = h.node.is(g)
	}
	return answer, err
}

// is returns ENODEV when g has noticed that it is another group than the node.
func (n *node) is(g *freezer.Group) error {
	id, err := g.ID()
	if err == nil && id != n.id && !n.isRoot() {
		return unix.ENODEV
	}
	return err
}

func readState(fs *fileSystem, h *handle, _ caller) ([]byte, error) {
	s, err := ask(fs, h, (*freezer.Group).State)
	return []byte(s.String() + "\n"), err
}

func readSelf(fs *fileSystem, h *handle, _ caller) ([]byte, error) {
	s, err := ask(fs, h, (*freezer.Group).States)
	return bit(s.Self != freezer.Thawed), err
}

func readParent(fs *fileSystem, h *handle, _ caller) ([]byte, error) {
	s, err := ask(fs, h, (*freezer.Group).States)
	return bit(s.Parent != freezer.Thawed), err
}

func bit(on bool) []byte {
	if on {
		return []byte("1\n")
	}
	return []byte("0\n")
}

// writeState freezes or thaws the group. Writing THAWED is an administrator's
// word: it takes all holds off.
func writeState(fs *fileSystem, h *handle, c caller, text string) error {
	want, err := freezer.ParseState(text)
	if err != nil {
		return err
	}
	g, err := fs.f.Group(fs.nodes.path(h.node))
	if err != nil {
		return err
	}
	if err := h.node.is(g); err != nil {
		g.Close()
		return err
	}
	event := audit.Event{Op: "thaw", Group: g.Name(), Dir: g.Dir(), PID: c.tid, UID: int(c.uid)}
	if want == freezer.Frozen {
		event.Op = "freeze"
		event.Err = fs.freeze(g, c)
	} else {
		event.Err = g.Thaw(freezer.AllHolds())
		g.Close()
	}
	audit.Record(event)
	return event.Err
}

// freeze asks for the group to be frozen and waits for it until the grace is
// over. It closes g.
//
// Who is in the group itself must have his answer before he can freeze, so there
// is no waiting for him. Nor does it depend on the request's context: freezing
// the one who asked interrupts his request. The server itself is refused whoever
// asks: its clients would hang beyond kill -9.
func (fs *fileSystem) freeze(g *freezer.Group, c caller) error {
	if g.Covers(os.Getpid()) {
		g.Close()
		return fmt.Errorf("%w: the server of this file system is in it", freezer.ErrSelf)
	}
	inside := c.tid != 0 && g.Covers(c.tid)
	ctx, cancel := context.WithTimeout(context.Background(), fs.opts.Grace)
	asked, frozen := make(chan struct{}), make(chan error, 1)
	go func() {
		defer cancel()
		defer g.Close()
		frozen <- g.Freeze(ctx, freezer.Force(), freezer.WithoutBlockers(), freezer.Asked(func() { close(asked) }))
	}()
	var enough <-chan struct{}
	if fs.opts.NoWait || inside {
		enough = asked
	}
	select {
	case err := <-frozen:
		if errors.Is(err, freezer.ErrThawed) {
			err = freezer.ErrFreezing
		}
		return err
	case <-enough:
		return nil
	case <-time.After(fs.opts.Grace): // not a moment longer, whatever it waits for
		return freezer.ErrFreezing
	}
}
