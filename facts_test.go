package freezer_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// What this package relies on the kernel for, or works around, beyond what the
// suite sees.

// The forker is a process of its own: with it hangs the whole of a Go program that
// has one processor only.
func TestAForkIntoAFrozenGroupHangsUntilTheThaw(t *testing.T) {
	if _, g := elsewhere(t); g != nil {
		dir, err := os.Open(g.Dir())
		must(t, err)
		cmd := exec.Command("true")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		must(t, cmd.Run())
		return
	}
	f := freezertest.Tree(t, freezer.Cgroup2)
	g, err := f.Create("g")
	must(t, err)
	must(t, g.Freeze(t.Context()))
	ended := make(chan error, 1)
	var out []byte
	cmd := again(t, g)
	go func() {
		var err error
		out, err = cmd.CombinedOutput()
		ended <- err
	}()
	freezertest.Eventually(t, "the child is in the group", func() bool {
		pids, err := g.Processes()
		return err == nil && len(pids) == 1
	})
	select {
	case err := <-ended:
		t.Errorf("the fork came back: %v", err)
	case <-time.After(50 * time.Millisecond):
		must(t, g.Thaw())
		err := <-ended
		passed(t, string(out), err)
	}
}

func TestWordsThatCgroup1Takes(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup1)
	g, err := f.Create("g")
	must(t, err)
	write := func(word string) error {
		fd, err := unix.Open(g.Dir()+"/freezer.state", unix.O_WRONLY, 0)
		must(t, err)
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte(word))
		return err
	}
	for _, word := range []string{"FROZEN", "FROZEN\n", " FROZEN\n\n", "\tFROZEN "} {
		must(t, write(word))
		wantState(t, g, freezer.Frozen)
		must(t, write("THAWED\n"))
		wantState(t, g, freezer.Thawed)
	}
	for _, word := range []string{"frozen", "1", "FREEZING", "FROZENX"} {
		if err := write(word); err != unix.EINVAL {
			t.Errorf("%q: %v", word, err)
		}
		if _, err := freezer.ParseState(word); !errors.Is(err, syscall.EIO) { // as the specification wants it
			t.Errorf("ParseState(%q): %v", word, err)
		}
	}
	must(t, write(""))
	wantState(t, g, freezer.Thawed)
}

func TestTheFirstFreezeLeavesCgroup1Warm(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup1)
	g, err := f.Create("g")
	must(t, err)
	must(t, g.Freeze(t.Context()))
	warm, err := os.ReadFile(f.Root() + "/.freezer-warm/freezer.state")
	if err != nil || !bytes.HasPrefix(warm, []byte("FROZEN")) {
		t.Errorf("the warm group is %q, %v", warm, err)
	}
	groups, err := f.Groups()
	must(t, err)
	if len(groups) != 1 {
		t.Errorf("it is listed: %v", groups)
	}
}

// Of a group with tasks and children cgroup2 says "frozen 1" too early; should
// that end, internal/cgroup2 need not look at each task any more.
func TestWhatCgroup2SaysOfGroupsWithTasksAndChildren(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup2)
	g, err := f.Create("g")
	must(t, err)
	child, err := f.Create("g/child")
	must(t, err)
	block(t, child)
	must(t, g.Add(freezertest.Sleeper(t)))
	wantLate(t, g.Freeze(soon(t)), context.DeadlineExceeded)
	events, err := os.ReadFile(g.Dir() + "/cgroup.events")
	must(t, err)
	t.Logf("with a blocker below: %q", strings.TrimSpace(string(events)))
	wantState(t, g, freezer.Freezing)
}
