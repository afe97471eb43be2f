// Package freezertest tests freezers: one conformance suite that runs against
// every backend, against the file system and against a pure model, and what
// tests with real groups and processes need to leave nothing behind.
//
// A test binary that uses it has
//
//	func TestMain(m *testing.M) { freezertest.Main(m) }
package freezertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
)

// Backends are the names of the kernel's freezers. The third backend, ptrace, is
// tested in its own room, with the same suite.
var Backends = []string{freezer.Cgroup2, freezer.Cgroup1}

var trees atomic.Int64

// Tree opens an empty tree of its own on one backend. It is thawed, killed and
// removed when the test ends, however it ends. Where this host, or this user,
// cannot have one the test is skipped with the reason.
func Tree(tb testing.TB, backend string, opts ...freezer.Option) *freezer.Freezer {
	tb.Helper()
	f, err := Open(backend, opts...)
	if err != nil {
		tb.Skipf("no tree on %s: %v", backend, err)
	}
	tb.Cleanup(func() {
		if err := RemoveTree(f); err != nil {
			tb.Errorf("left behind: %v", err)
		}
	})
	return f
}

// Open is Tree for code that has no testing.TB: the caller must call RemoveTree.
func Open(backend string, opts ...freezer.Option) (*freezer.Freezer, error) {
	opts = append(opts, freezer.WithBackend(backend))
	usual, err := freezer.Open(opts...)
	if err != nil {
		return nil, err
	}
	if _, err := usual.Group("/"); err != nil {
		return nil, err
	}
	root := filepath.Join(filepath.Dir(usual.Root()), fmt.Sprintf("freezer-test-%d-%d", os.Getpid(), trees.Add(1)))
	f, err := freezer.Open(append(opts, freezer.WithRoot(root))...)
	if err != nil {
		return nil, err
	}
	onDeath("tree", root)
	// Whether groups can be made is known only when one is.
	g, err := f.Create("probe")
	if err != nil {
		return nil, errors.Join(err, RemoveTree(f))
	}
	return f, g.Remove()
}

// RemoveTree thaws and kills whatever is in the tree and removes all of it.
func RemoveTree(f *freezer.Freezer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	root, err := f.Group("/")
	if err != nil || !root.Exists() {
		return err
	}
	groups, err := root.Walk()
	if err != nil {
		return err
	}
	for _, g := range groups {
		err := g.Thaw(freezer.AllHolds())
		g.Close() // there may be thousands
		if err != nil && !errors.Is(err, freezer.ErrNotExist) {
			return err
		}
	}
	if err := root.Kill(ctx); err != nil {
		return err
	}
	for i := len(groups) - 1; i > 0; i-- {
		if err := groups[i].Remove(); err != nil && !errors.Is(err, freezer.ErrNotExist) {
			return err
		}
	}
	for _, g := range groups {
		g.Close()
	}
	if err := f.Clean(); err != nil {
		return err
	}
	if root.Exists() {
		return fmt.Errorf("%s is still there", root.Dir())
	}
	forget("tree", f.Root())
	return nil
}

// Start starts a program that is killed, and waited for, when the test ends.
func Start(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	Run(tb, cmd)
	return cmd
}

// Run starts cmd, which is killed, and waited for, when the test ends. It may be
// frozen then: on cgroup1 it dies only when its tree is removed, so the test's
// end does not wait for it.
func Run(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	pid := fmt.Sprint(cmd.Process.Pid)
	onDeath("process", pid)
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		go func() {
			_ = cmd.Wait()
			forget("process", pid)
		}()
	})
}

// Sleeper starts a process that sleeps, and returns its PID.
func Sleeper(tb testing.TB) int {
	tb.Helper()
	return Start(tb, "sleep", "1000").Process.Pid
}

// OnUnmount has a mount point lazily unmounted should this test binary die
// before forget is called.
func OnUnmount(dir string) (forgetIt func()) {
	onDeath("mount", dir)
	return func() { forget("mount", dir) }
}

// Eventually fails the test unless ok becomes true within a generous time.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for start, nap := time.Now(), time.Millisecond; !ok(); nap = min(2*nap, 50*time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			tb.Fatalf("never happened: %s", what)
		}
		time.Sleep(nap)
	}
}

// InTime runs a measurement of time until it finds nothing late, three times at
// most: a busy machine is late now and then, a defect each time.
func InTime(tb testing.TB, measure func() (late error)) {
	tb.Helper()
	var late error
	for range 3 {
		if late = measure(); late == nil {
			return
		}
		tb.Log(late)
	}
	tb.Error(late)
}
