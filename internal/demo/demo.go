// Package demo is the demonstration: the session of the freezer's
// specification, played on real processes. It says what it sees, not what
// there should be to see, and leaves nothing behind.
package demo

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cgfreezer/freezer"
)

// Options say where and how the demonstration is played.
type Options struct {
	Root    string // of the tree of groups; empty for the usual one
	Backend string // freezer.Cgroup2 or Cgroup1; empty for the usual one
	Out     io.Writer
	Colour  bool
}

var scenes = []struct {
	name string // of its group
	play func(*stage, context.Context) error
}{
	{"shells", (*stage).shells},
	{"gdb", (*stage).debugger},
	{"reader", (*stage).blocker},
}

// Run plays the demonstration and reports to o.Out. What cannot be shown here is
// skipped, with the reason. It returns early when ctx ends, and by a signal that
// would end the program, then with an Interrupted. In any case all that it made
// is gone when it returns. An error says that the demonstration itself failed;
// see Report.Good for what it saw.
func Run(ctx context.Context, o Options) (*Report, error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	start := time.Now()
	r := &Report{out: o.Out, colour: o.Colour, done: ctx.Done()}
	r.print(r.style(bold, "The freezer's specification, on real processes"))
	s, err := prepare(ctx, o, r)
	switch {
	case err == nil:
		err = errors.Join(s.playAll(ctx), s.remove())
	case errors.Is(err, freezer.ErrNoBackend), errors.Is(err, freezer.ErrPermission):
		r.skip("everything: nothing can be frozen here: %v", err)
		err = nil
	}
	if err == nil {
		r.summary(time.Since(start))
		err = r.err
	}
	return r, err
}

// prepare sets the stage, and makes sure that freezing works here at all.
func prepare(ctx context.Context, o Options, r *Report) (*stage, error) {
	var opts []freezer.Option
	if o.Root != "" {
		opts = append(opts, freezer.WithRoot(o.Root))
	}
	if o.Backend != "" {
		opts = append(opts, freezer.WithBackend(o.Backend))
	}
	f, err := freezer.Open(opts...)
	if err != nil {
		return nil, err
	}
	left, err := sweep(f)
	if len(left) > 0 {
		r.say("Removed what demonstrations had left that were killed: %s.", strings.Join(left, ", "))
	}
	if err != nil {
		return nil, err
	}
	s, err := newStage(f, r)
	if err != nil {
		return nil, err
	}
	if err := s.probe(ctx); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	r.say("The groups are in %s (%s). Below, | begins what a terminal shows, and # what is done from outside.", s.group.Dir(), f.Backend())
	return s, nil
}

// probe freezes and thaws the stage while it is empty.
func (s *stage) probe(ctx context.Context) error {
	if _, err := freeze(ctx, s.group, 0); err != nil {
		return err
	}
	if err := s.group.Thaw(); err != nil {
		return err
	}
	state, err := s.group.State()
	if err == nil && state != freezer.Thawed {
		err = errors.New("a group above " + s.group.Dir() + " is frozen: thaw it first")
	}
	return err
}

// playAll plays the scenes. One that breaks off does not keep the others from
// being played; an interruption does, and a reader who has gone.
func (s *stage) playAll(ctx context.Context) error {
	var failed error
	for _, scene := range scenes {
		err := s.play(ctx, scene.name, scene.play)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s.err != nil:
			return s.err
		case err != nil:
			s.say("This scene broke off: %v.", err)
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// Colour says whether a file is a terminal whose user would like colours.
func Colour(f *os.File) bool {
	return isTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
