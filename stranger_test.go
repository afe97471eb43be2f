package freezer_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestAStrangerCanNeitherHoldNorThawNorLock(t *testing.T) {
	if f, g := elsewhere(t); f != nil {
		beAStranger(t, g)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	eachCgroup(t, func(t *testing.T, g *freezer.Group) {
		pid := freezertest.Sleeper(t)
		must(t, g.Add(pid))
		must(t, g.Freeze(t.Context(), freezer.By("owner")))
		cmd := again(t, g)
		cmd.Path = "/proc/self/exe" // the way to it is root's
		cmd.Dir = "/"
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		leave, err := cmd.StdinPipe()
		must(t, err)
		pipe, err := cmd.StdoutPipe()
		must(t, err)
		cmd.Stderr = cmd.Stdout
		freezertest.Run(t, cmd)
		var told strings.Builder
		out := bufio.NewReader(io.TeeReader(pipe, &told))
		for line := ""; line != "locked\n"; {
			if line, err = out.ReadString('\n'); err != nil {
				t.Fatalf("%v\n%s", err, told.String())
			}
		}
		wantOwners(t, g, "owner")
		wantState(t, g, freezer.Frozen)

		// While he sits on whatever lock he can get, the owner goes on.
		start := time.Now()
		must(t, g.Freeze(t.Context(), freezer.By("second")))
		wantHeld(t, g.Thaw(freezer.HeldBy("owner")))
		wantOwners(t, g, "second")
		must(t, g.Thaw(freezer.HeldBy("second")))
		wantState(t, g, freezer.Thawed)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("with the lock in a stranger's hand it took %v", took)
		}
		pids, err := g.Processes()
		must(t, err)
		if len(pids) != 1 || pids[0] != pid {
			t.Errorf("in the group are %v, want %d alone", pids, pid)
		}

		must(t, leave.Close())
		_, _ = io.Copy(io.Discard, out)
		err = cmd.Wait()
		passed(t, told.String(), err)
	})
}

// beAStranger tries all that is not his, takes the lock that he can get, and keeps
// it until his input ends.
func beAStranger(t *testing.T, g *freezer.Group) {
	ctx := t.Context()
	for _, try := range []struct {
		what string
		do   func() error
	}{
		{"freeze", func() error { return g.Freeze(ctx) }},
		{"hold", func() error { return g.Freeze(ctx, freezer.By("stranger")) }},
		{"hold in the owner's name", func() error { return g.Freeze(ctx, freezer.By("owner"), freezer.Why("mine")) }},
		{"take the owner's hold off", func() error { return g.Thaw(freezer.HeldBy("owner")) }},
		{"take all holds off", func() error { return g.Thaw(freezer.AllHolds()) }},
		{"kill", func() error { return g.Kill(ctx) }},
		{"join", func() error { return g.Add(os.Getpid()) }},
		{"remove", func() error { return g.Remove() }},
	} {
		if err := try.do(); !errors.Is(err, freezer.ErrPermission) {
			t.Errorf("%s: got %v, want ErrPermission", try.what, err)
		}
	}
	if err := g.Thaw(); !errors.Is(err, freezer.ErrHeld) { // there is no default hold to take off
		t.Errorf("thaw: got %v, want ErrHeld", err)
	}
	dir, err := os.Open(g.Dir())
	must(t, err)
	defer dir.Close()
	must(t, unix.Flock(int(dir.Fd()), unix.LOCK_EX))
	if _, err := os.OpenFile(g.Dir()+"/cgroup.kill", os.O_WRONLY, 0); g.Backend() == freezer.Cgroup2 && !errors.Is(err, unix.EACCES) {
		t.Errorf("what changes are locked by: got %v, want EACCES", err)
	}
	fmt.Println("\nlocked")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
