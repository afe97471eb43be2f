package main

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A way is one to freeze. It opens freezers of one group each.
type way struct {
	name   string
	column string // in the table; two ways can share one
	open   func() (icer, error)
}

// An icer freezes and thaws the subjects of one stage.
type icer interface {
	group() string // the file to join by, if there is one
	freeze(*stage) error
	thaw(*stage) error
	close()
}

var ways = []way{
	{"SIGSTOP", "SIGSTOP", func() (icer, error) { return signals{}, nil }},
	{"cgroup1", "cgroup1", func() (icer, error) { return openCgroup(freezer.Cgroup1) }},
	{"cgroup2", "cgroup2", func() (icer, error) { return openCgroup(freezer.Cgroup2) }},
	{"ptrace", "ptrace", func() (icer, error) { return openTracer(nil), nil }},
	{"invisible", "invisible", openInvisible},
	{"invisible-ptrace", "invisible", func() (icer, error) { return openTracer(invisible.NewMinder()), nil }},
}

// control freezes nothing.
var control = way{"control", "", func() (icer, error) { return nothing{}, nil }}

type nothing struct{}

func (nothing) group() string       { return "" }
func (nothing) freeze(*stage) error { return nil }
func (nothing) thaw(*stage) error   { return nil }
func (nothing) close()              {}

type signals struct{ nothing }

func (signals) freeze(s *stage) error { return signalAll(s, syscall.SIGSTOP) }
func (signals) thaw(s *stage) error   { return signalAll(s, syscall.SIGCONT) }

func signalAll(s *stage, sig syscall.Signal) error {
	for _, pid := range s.pids {
		if err := syscall.Kill(pid, sig); err != nil {
			return err
		}
	}
	return nil
}

type cgroup struct {
	tree *freezer.Freezer
	g    *freezer.Group
}

func openCgroup(backend string) (icer, error) { return newCgroup(backend) }

func newCgroup(backend string) (c cgroup, err error) {
	if c.tree, err = freezertest.Open(backend); err != nil {
		return c, err
	}
	c.g, err = c.tree.Create("subjects")
	return c, err
}

func (c cgroup) group() string       { return c.g.Dir() + "/cgroup.procs" }
func (c cgroup) freeze(*stage) error { return c.g.Freeze(context.Background()) }
func (c cgroup) thaw(*stage) error   { return c.g.Thaw() }

func (c cgroup) close() {
	if err := freezertest.RemoveTree(c.tree); err != nil {
		fmt.Println("left behind:", err)
	}
}

// hidden is cgroup2 with the invisible thaw.
type hidden struct {
	cgroup
	session *invisible.Session
}

func openInvisible() (icer, error) {
	c, err := newCgroup(freezer.Cgroup2)
	return &hidden{cgroup: c}, err
}

func (h *hidden) freeze(s *stage) error {
	h.session = invisible.Prepare(s.tasks())
	return h.cgroup.freeze(s)
}

func (h *hidden) thaw(s *stage) error {
	return h.session.Thaw(context.Background(), s.tasks(), func() error { return h.g.Thaw() })
}

// A tracer freezes by ptrace alone: one thread seizes and interrupts each task,
// and lets go of them all. With a minder it makes their calls start again.
type tracer struct {
	nothing
	work    chan func()
	session *invisible.Session
	minder  *invisible.Minder
	frozen  bool
	held    map[int]bool
}

func openTracer(minder *invisible.Minder) icer {
	t := &tracer{work: make(chan func()), minder: minder, held: map[int]bool{}}
	go t.loop()
	return t
}

func (t *tracer) close() { close(t.work) }

// loop is the tracing thread. It looks after minded calls every millisecond,
// which is good enough for a measurement.
func (t *tracer) loop() {
	runtime.LockOSThread()
	for {
		var beat <-chan time.Time
		if len(t.held) > 0 && !t.frozen {
			beat = time.After(ms)
		}
		select {
		case f, ok := <-t.work:
			if !ok {
				return
			}
			f()
		case <-beat:
			t.mind()
		}
	}
}

// mind looks after what was held: calls that are minded, and tasks that could
// not stop before, such as the parent of a vfork.
func (t *tracer) mind() {
	for tid := range t.held {
		t.look(tid, func(status ptrace.Status) {
			if t.minder != nil {
				_ = t.minder.Resume(tid, status, t.session)
			} else {
				_ = ptrace.Detach(tid, status.Signal())
			}
		})
	}
	if t.minder != nil {
		t.minder.Expire()
	}
}

func (t *tracer) look(tid int, stopped func(ptrace.Status)) {
	status, err := ptrace.Poll(tid)
	switch {
	case err != nil || status.Ended():
		delete(t.held, tid)
	case status.Stopped():
		stopped(status)
		if t.minder == nil || !t.minder.Minds(tid) {
			delete(t.held, tid)
		}
	}
}

func (t *tracer) do(f func() error) error {
	done := make(chan error)
	t.work <- func() { done <- f() }
	return <-done
}

func (t *tracer) freeze(s *stage) error {
	tids := s.tasks()
	if t.minder != nil {
		t.session = invisible.Prepare(tids)
	}
	return t.do(func() error {
		t.frozen = true
		for _, tid := range tids {
			if !t.held[tid] {
				if err := ptrace.Seize(tid, unix.PTRACE_O_TRACESYSGOOD); err != nil {
					return err
				}
			}
			t.held[tid] = true
			_ = ptrace.Interrupt(tid)
		}
		return nil
	})
}

func (t *tracer) thaw(*stage) error {
	return t.do(func() error {
		t.frozen = false
		t.mind()
		return nil
	})
}
