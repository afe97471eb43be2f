//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// pages are as bytes here: a run is a range of them.
func TestRunsAreSets(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) []run {
		var runs []run
		at := uint64(0)
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			at += rapid.Uint64Range(1, 4).Draw(t, "gap")
			end := at + rapid.Uint64Range(1, 5).Draw(t, "length")
			runs = append(runs, run{at, end})
			at = end
		}
		return runs
	})
	in := func(runs []run, at uint64) bool {
		for _, r := range runs {
			if r.start <= at && at < r.end {
				return true
			}
		}
		return false
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		for at := uint64(0); at < 64; at++ {
			if got, want := in(without(a, b), at), in(a, at) && !in(b, at); got != want {
				t.Fatalf("%d is in %v without %v: %v", at, a, b, got)
			}
			if got, want := in(within(a, b), at), in(a, at) && in(b, at); got != want {
				t.Fatalf("%d is in %v and %v: %v", at, a, b, got)
			}
			if got, want := in(ordered(append(append([]run{}, b...), a...)), at), in(a, at) || in(b, at); got != want {
				t.Fatalf("%d is in %v or %v: %v", at, a, b, got)
			}
		}
	})
}

// track makes an image of a subject in a file, and has what is written since noted.
func (s *subject) track(t testing.TB, name, base string) (path string, stats Stats) {
	t.Helper()
	path = filepath.Join(s.dir, name)
	o := SaveOptions{Track: base == "", Base: base}
	stats, err := SaveFile(context.Background(), s.group, path, o)
	var refused *RefusedError
	if errors.Is(err, freezer.ErrUnsupported) && !errors.As(err, &refused) {
		t.Skip(err) // the kernel notes nothing
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Untrack(s.group) })
	if stats.Untracked != "" {
		t.Fatal("nobody tracks it: ", stats.Untracked)
	}
	return path, stats
}

// tell has a subject go on by a round, and waits until it says that it has.
func (s *subject) tell(t testing.TB, word string) {
	t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	freezertest.Eventually(t, word, func() bool { return strings.Contains(s.said(), word+"\n") })
}

// An image that builds on others has only what was written since, and is restored
// with them.
func TestAnImageWithABaseHasOnlyWhatChanged(t *testing.T) {
	s := start(t, cSubject(t, "rounds"))
	first, whole := s.track(t, "first.image", "")
	if whole.Base != "" || whole.Bytes < 32<<20 {
		t.Fatalf("the first image has %d bytes, and the base %q", whole.Bytes, whole.Base)
	}
	s.tell(t, "round 1")
	second, delta := s.track(t, "second.image", first)
	if delta.Base != first || delta.Bytes > 3<<20 {
		t.Errorf("the second image has %d bytes, and the base %q", delta.Bytes, delta.Base)
	}
	s.tell(t, "round 2")
	third, last := s.track(t, "third.image", second)
	if last.Base != second || last.Bytes > 3<<20 {
		t.Errorf("the third image has %d bytes, and the base %q", last.Bytes, last.Base)
	}
	t.Logf("%d bytes, stopped %v; %d, %v; %d, %v", whole.Bytes, whole.Stopped, delta.Bytes, delta.Stopped, last.Bytes, last.Stopped)
	if Tracked(s.group) == "" {
		t.Error("nobody tracks it")
	}
	image, err := os.ReadFile(third)
	if err != nil {
		t.Fatal(err)
	}
	s.end(t, image)
	job := s.restoreFile(t, third)
	goesOn(t, s, job)
}

// And what the job does meanwhile is not harmed, nor is anything left of it.
func TestTrackingIsNotSeenByTheJob(t *testing.T) {
	s := start(t, cSubject(t, "rounds"))
	pid := s.cmd.Process.Pid
	before := fdsOf(pid)
	first, _ := s.track(t, "first.image", "")
	s.tell(t, "round 1")
	s.track(t, "second.image", first)
	if after := fdsOf(pid); len(after) != len(before) {
		t.Errorf("it had the descriptors %v, and has %v", before, after)
	}
	smaps := func() string { text, _ := os.ReadFile(proc.Path(pid, "smaps")); return string(text) }
	if !strings.Contains(smaps(), " uw") {
		t.Error("it is not tracked")
	}
	if err := Untrack(s.group); err != nil {
		t.Fatal(err)
	}
	freezertest.Eventually(t, "nothing of it is left", func() bool { return !strings.Contains(smaps(), " uw") })
	s.tell(t, "round 2")
	lives(t, s)
}

// An image is whole again when its base is not the last one that was tracked, or when
// the tracker was lost.
func TestABaseThatNobodyTracksIsNotBuiltOn(t *testing.T) {
	s := start(t, cSubject(t, "rounds"))
	first, _ := s.track(t, "first.image", "")
	second, _ := s.track(t, "second.image", first)
	s.tell(t, "round 1")
	if _, stats := s.track(t, "third.image", first); stats.Base != "" || stats.Bytes < 32<<20 {
		t.Errorf("it builds on %q, and has %d bytes", stats.Base, stats.Bytes)
	}
	pid, _ := trackerOf(s.group)
	_ = unix.Kill(pid, unix.SIGKILL)
	freezertest.Eventually(t, "the tracker is dead", func() bool { st, err := proc.ReadStat(pid); return err != nil || st.State == 'Z' })
	_, stats := s.track(t, "fourth.image", filepath.Join(s.dir, "third.image"))
	if stats.Base != "" || stats.Bytes < 32<<20 {
		t.Errorf("without a tracker it builds on %q, and has %d bytes", stats.Base, stats.Bytes)
	}
	// And a base that was replaced by another image is found.
	fifth, stats := s.track(t, "fifth.image", filepath.Join(s.dir, "fourth.image"))
	if stats.Base == "" {
		t.Fatal("the fifth image does not build on the fourth")
	}
	if err := os.Rename(second, filepath.Join(s.dir, "fourth.image")); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(fifth)
	if err != nil {
		t.Fatal(err)
	}
	s.end(t, image)
	if _, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("Restore says %v", err)
	}
}

// The tracker ends with the processes that it tracks.
func TestTheTrackerEndsWithTheJob(t *testing.T) {
	s := start(t, cSubject(t, "rounds"))
	first, _ := s.track(t, "first.image", "")
	pid, _ := trackerOf(s.group)
	image, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	s.end(t, image)
	freezertest.Eventually(t, "the tracker is gone", func() bool { st, err := proc.ReadStat(pid); return err != nil || st.State == 'Z' })
}

// Whoever begins to track a job is killed: the job is unharmed, and nothing is left in
// it.
func TestKillingWhoBeginsToTrackHarmsNothing(t *testing.T) {
	s := start(t, cSubject(t, "rounds"))
	pid := s.cmd.Process.Pid
	before := fdsOf(pid)
	image := filepath.Join(t.TempDir(), "image")
	t.Cleanup(func() { _ = Untrack(s.group) })
	n := 1
	for ; ; n++ {
		err := saver(t, saverTask{Root: s.f.Root(), Image: image, Die: -n, Track: true}).Run()
		s.alive(t, fmt.Sprint("killed at call ", n))
		if after := fdsOf(pid); !slices.Equal(after, before) {
			t.Fatalf("killed at call %d, it had the descriptors %v, and has %v", n, before, after)
		}
		if err == nil {
			break
		}
		if Tracked(s.group) != "" {
			t.Fatalf("killed at call %d, a tracker is left", n)
		}
	}
	t.Logf("it makes %d calls", n-1)
	if Tracked(s.group) == "" {
		t.Error("it is not tracked in the end")
	}
	if err := Untrack(s.group); err != nil {
		t.Fatal(err)
	}
	s.tell(t, "round 1")
	s.tell(t, "round 2")
	lives(t, s)
}
