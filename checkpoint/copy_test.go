//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// saveCopy makes an image by copy on write, and makes sure that it was so.
func (s *subject) saveCopy(t testing.TB) []byte {
	t.Helper()
	var image bytes.Buffer
	stats, err := Save(context.Background(), s.group, &image, SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Snapshot != CopyOnWrite {
		t.Fatalf("the snapshot was %q: %s", stats.Snapshot, stats.Reason)
	}
	return image.Bytes()
}

// end kills a subject and waits until its PIDs are free.
func (s *subject) end(t testing.TB, image []byte) {
	t.Helper()
	if err := s.group.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	reap(t, image)
}

func TestAnImageFromCopiesIsRestored(t *testing.T) {
	for _, state := range someStates() {
		if state == "seccomp" {
			continue // it is not copied
		}
		t.Run(state, func(t *testing.T) {
			s := start(t, cSubject(t, state))
			image := s.saveCopy(t)
			s.end(t, image)
			goesOn(t, s, s.restore(t, image))
		})
	}
}

// Nothing of a copy is left, in the job or anywhere.
func TestACopyLeavesNothingBehind(t *testing.T) {
	s := start(t, cSubject(t, "memory"))
	pid := s.cmd.Process.Pid
	maps := func() string {
		text, err := os.ReadFile(proc.Path(pid, "maps"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before, mine := maps(), children(t, os.Getpid())
	s.saveCopy(t)
	if after := maps(); after != before {
		t.Errorf("its memory was\n%sand is\n%s", before, after)
	}
	if left := children(t, pid); len(left) > 0 {
		t.Errorf("it has the children %v", left)
	}
	freezertest.Eventually(t, "the copy is gone", func() bool { return slices.Equal(children(t, os.Getpid()), mine) })
	if all, err := s.group.Processes(); err != nil || !slices.Equal(all, []int{pid}) {
		t.Errorf("the group has the processes %v, %v", all, err)
	}
	lives(t, s)
}

// children lists the children of a process, zombies among them.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	for _, other := range proc.All() {
		if st, err := proc.ReadStat(other); err == nil && st.Parent == pid {
			pids = append(pids, other)
		}
	}
	return pids
}

// A job whose limits leave no room for copies is stopped instead, and why is said.
func TestWhereCopiesWouldHarmTheJobItIsStopped(t *testing.T) {
	needRoot(t)
	for _, limit := range []struct{ controller, file, value, none, reason string }{
		{"memory", "memory.limit_in_bytes", "64M", "-1", "the memory limit of"},
		{"pids", "pids.max", "1", "max", "it cannot be copied"},
	} {
		t.Run(limit.controller, func(t *testing.T) {
			dir := filepath.Join("/sys/fs/cgroup", limit.controller, fmt.Sprintf("freezer-test-%d", os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Skipf("no cgroup1 %s controller to limit it with: %v", limit.controller, err)
			}
			t.Cleanup(func() {
				freezertest.Eventually(t, "the limiting group is removed", func() bool { return os.Remove(dir) == nil })
			})
			s := start(t, cSubject(t, "memory"))
			t.Cleanup(func() { _ = s.group.Kill(context.Background()); _ = s.cmd.Wait() })
			put := func(file, text string) {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
					t.Fatal(err)
				}
			}
			put("cgroup.procs", fmt.Sprint(s.cmd.Process.Pid))
			put(limit.file, limit.value)
			var image bytes.Buffer
			stats, err := Save(context.Background(), s.group, &image, SaveOptions{Snapshot: CopyOnWrite})
			if err != nil || stats.Snapshot != WhileStopped || !strings.Contains(stats.Reason, limit.reason) {
				t.Fatalf("snapshot %q, because %q; %v", stats.Snapshot, stats.Reason, err)
			}
			put(limit.file, limit.none)
			s.end(t, image.Bytes())
			goesOn(t, s, s.restore(t, image.Bytes()))
		})
	}
}

// While a copy is there, a pipe between members has its end when its writer ends.
func TestACopyHoldsNoFileOpen(t *testing.T) {
	s := start(t, exec.Command("sh", "-c", "echo ready; sleep 0.2 | { cat; echo end; }; exec sleep 60"))
	w := &waiting{first: make(chan struct{}), goOn: make(chan struct{})}
	saved := make(chan error, 1)
	go func() {
		stats, err := Save(context.Background(), s.group, w, SaveOptions{})
		if err == nil && stats.Snapshot != CopyOnWrite {
			err = errors.New("it was no copy: " + stats.Reason)
		}
		saved <- err
	}()
	<-w.first
	freezertest.Eventually(t, "the pipe's reader sees its end", func() bool { return strings.Contains(s.said(), "end\n") })
	close(w.goOn)
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	_ = s.group.Kill(context.Background())
	_ = s.cmd.Wait()
}

// A waiting writer is stuck in its first write until goOn is closed.
type waiting struct {
	bytes.Buffer
	first, goOn chan struct{}
}

func (w *waiting) Write(b []byte) (int, error) {
	if w.Len() == 0 {
		close(w.first)
		<-w.goOn
	}
	return w.Buffer.Write(b)
}

// A copy that is killed, by somebody who needs its memory, costs the image and not
// the job.
func TestAKilledCopyIsToldAndHarmsNothing(t *testing.T) {
	s := start(t, cSubject(t, "memory"))
	mine := children(t, os.Getpid())
	w := &waiting{first: make(chan struct{}), goOn: make(chan struct{})}
	saved := make(chan error, 1)
	go func() {
		_, err := Save(context.Background(), s.group, w, SaveOptions{})
		saved <- err
	}()
	<-w.first
	killed := 0
	for _, pid := range children(t, os.Getpid()) {
		if !slices.Contains(mine, pid) {
			killed++
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	close(w.goOn)
	if err := <-saved; err == nil || killed != 1 {
		t.Errorf("%d copies were killed, and the checkpoint says %v", killed, err)
	}
	lives(t, s)
}
