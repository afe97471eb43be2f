package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cgfreezer/freezer"
)

// Leave is what becomes of a group when its image is written.
type Leave string

// What can become of a group.
const (
	Running Leave = "running" // it goes on, as if nothing had been; a frozen group stays frozen
	Frozen  Leave = "frozen"  // it is frozen, under the default hold
	Killed  Leave = "killed"
)

// Snapshot is how the memory of a group is taken.
type Snapshot string

// The ways to take memory.
const (
	CopyOnWrite  Snapshot = "cow"  // the tasks go on while it is written, from a fork of each process
	WhileStopped Snapshot = "stop" // they are stopped until all is written
)

// SaveOptions say how a group is to be checkpointed.
//
// With Base, memory that was not written since that image was taken is left out: so
// it must be there for a restore. That is known if it was the last one that was taken
// with Track or Base; else, and of processes and mappings that have come since, all is
// written. With either of the two the next image can have this one as its base, and the
// job pays 20 to 30 us for the first write to each page from now on (see Untrack).
type SaveOptions struct {
	Track    bool
	Base     string              // the path of an image
	base     *Base               // the same, for one that has no path
	Leave    Leave               // empty: Running
	Snapshot Snapshot            // empty: CopyOnWrite, if that harms nobody; a group that is not to go on is stopped
	Compress string              // empty, or Zstd
	Tell     func(written int64) // called now and then, with the bytes that were written; nil: nothing is
}

func (o SaveOptions) running() bool { return o.Leave == "" || o.Leave == Running }

// Stats are the costs of a checkpoint.
type Stats struct {
	ID        string        `json:"id"` // of the image
	Processes int           `json:"processes"`
	Tasks     int           `json:"tasks"`
	Bytes     int64         `json:"bytes"` // of the image
	Stopped   time.Duration `json:"stopped_ns"`
	Snapshot  Snapshot      `json:"snapshot"`
	Reason    string        `json:"reason,omitempty"` // why it was WhileStopped, and not CopyOnWrite

	Base      string `json:"base,omitempty"`      // the image that this one builds on
	Untracked string `json:"untracked,omitempty"` // why none can build on this one, although that was wanted

	settled chan struct{}
}

// Settled waits until the system calls with a timeout have returned that started
// again when the tasks went on; see freezer.Group.Settled.
func (s Stats) Settled(ctx context.Context) error {
	if s.settled == nil {
		return nil
	}
	select {
	case <-s.settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Save writes an image of the group's processes, and of those below it, to w.
// They are stopped for a moment, or until it is written (see Snapshot), and go on
// afterwards, or are frozen or killed. When it fails, or when this program is killed
// at whatever moment, they go on as if nothing had been.
//
// A group that is frozen stays so, as do those below it. Its processes have to be
// asked what only they can tell, for which it is thawed for some milliseconds, but
// they run none of their own code then (see freezer.Group.Lifted).
//
// A RefusedError lists what the image would not carry.
func Save(ctx context.Context, g *freezer.Group, w io.Writer, o SaveOptions) (Stats, error) {
	return save(ctx, g, w, o, func() error { return nil })
}

// spool is how much of an image is kept in memory, so that a small job goes on
// before its image is written out.
const spool = 16 << 20

// save calls commit when all is written, before anything is killed or frozen and
// after everything runs again.
func save(ctx context.Context, g *freezer.Group, w io.Writer, o SaveOptions, commit func() error) (stats Stats, err error) {
	if err := supported(); err != nil {
		return stats, err
	}
	if err := compresses(o.Compress); err != nil {
		return stats, err
	}
	before, err := preflight(g)
	if err == nil {
		err = before.refused()
	}
	if err == nil {
		before.frozen, err = anyFrozen(g)
	}
	if err != nil {
		return stats, err
	}
	before.base = o.base
	if o.Base != "" {
		if before.base, err = baseAt(o.Base); err != nil {
			return stats, err
		}
	}
	if stats.Snapshot, stats.Reason = before.snapshot(o); stats.Snapshot == "" {
		return stats, fmt.Errorf("no snapshot %q: there are %s and %s", o.Snapshot, CopyOnWrite, WhileStopped)
	}
	stats.settled = make(chan struct{})
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // it traces the tasks, as long as calls of theirs are minded
		defer runtime.UnlockOSThread()
		s, err := before.save(ctx, w, o, &stats, commit)
		done <- err
		s.held.minder.Mind(nil, nil)
		close(stats.settled)
	}()
	err = <-done
	return stats, err
}

// save does so, on one thread.
func (before *survey) save(ctx context.Context, w io.Writer, o SaveOptions, stats *Stats, commit func() error) (*snapshot, error) {
	var since *tracking
	if o.Track || before.base != nil {
		var err error
		if since, err = takeTracking(before.group); err != nil {
			return &snapshot{held: newStopped(nil)}, err
		}
		defer since.close()
	}
	s, err := take(ctx, before, since, stats.Snapshot == CopyOnWrite)
	defer s.end()
	if errors.Is(err, errNoCopy) {
		stats.Snapshot, stats.Reason = WhileStopped, err.Error()
		err = s.askAll(false)
	}
	if err != nil {
		return s, err
	}
	stats.ID = s.job.ID
	if s.job.Base != nil {
		stats.Base = s.job.Base.Path
	}
	if stats.Snapshot == CopyOnWrite && s.copies == nil { // so little has changed
		stats.Snapshot = WhileStopped
	}
	commit = s.keepTracking(o, stats, commit)
	if stats.Snapshot == CopyOnWrite {
		err = s.toCopies()
		stats.Stopped = s.held.lasted
		if err == nil {
			err = s.mind(func() error { return after(s.write(w, o, stats), commit) })
		}
		return s, err
	}
	to := bufio.NewWriterSize(w, spool)
	if err = s.adviseAll(); err == nil {
		err = s.write(to, o, stats)
	}
	safe := func() error { return after(to.Flush(), commit) }
	if err == nil && !o.running() { // nobody ends before his image is safe
		s.held.forget()
		if err = safe(); err == nil {
			err = finish(ctx, s.group, o.Leave)
		} else if errors.Is(err, ErrLost) {
			err = errors.Join(err, finish(ctx, s.group, Frozen))
		}
	}
	s.held.release()
	stats.Stopped = s.held.lasted
	if err == nil && o.running() {
		err = s.mind(safe)
	}
	return s, err
}

// baseAt finds the image that another one is to build on.
func baseAt(path string) (*Base, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	job, err := ReadJob(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	path, err = filepath.Abs(path)
	return &Base{job.ID, path}, err
}

// keepTracking has what is written to memory noted from the image on, when that is
// whole.
func (s *snapshot) keepTracking(o SaveOptions, stats *Stats, commit func() error) func() error {
	if s.since == nil || !o.running() {
		return commit
	}
	return func() error {
		if err := commit(); err != nil {
			return err
		}
		if err := s.since.keep(s.group, s.job.ID); err != nil {
			stats.Untracked = err.Error()
		}
		return nil
	}
}

// anyFrozen says whether a group, or one below it, is frozen by itself.
func anyFrozen(g *freezer.Group) (frozen bool, err error) {
	all, err := g.Walk()
	for _, sub := range all {
		states, e := sub.States()
		sub.Close()
		if errors.Is(e, freezer.ErrNotExist) {
			continue
		}
		err = errors.Join(err, e)
		frozen = frozen || states.Self == freezer.Freezing || states.Parent == freezer.Freezing
	}
	return frozen, err
}

// after does what comes next if nothing has failed.
func after(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

// finish freezes or kills a group whose tasks are still held.
func finish(ctx context.Context, g *freezer.Group, leave Leave) error {
	switch leave {
	case Frozen:
		return g.Freeze(ctx, freezer.ThawOnTimeout(), freezer.Why("checkpoint"))
	case Killed:
		return g.Kill(ctx)
	}
	return nil
}

// snapshot decides how memory is taken, and says why it is not from copies.
func (s *survey) snapshot(o SaveOptions) (how Snapshot, reason string) {
	switch {
	case o.Snapshot != "" && o.Snapshot != CopyOnWrite && o.Snapshot != WhileStopped:
		return "", ""
	case o.Snapshot == WhileStopped || !o.running() || s.frozen:
		return WhileStopped, ""
	}
	if s.filtered {
		return WhileStopped, "a process has a seccomp filter, which could kill who makes a copy"
	}
	if reason := s.shortage(); reason != "" {
		return WhileStopped, reason
	}
	return CopyOnWrite, ""
}
