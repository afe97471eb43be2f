package freezer_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func wantErrSelf(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, freezer.ErrSelf) || freezer.Errno(err) != syscall.EDEADLK {
		t.Errorf("%s: %v", what, err)
	}
}

func TestTheCallerIsNotFrozenNorKilled(t *testing.T) {
	if f, g := elsewhere(t); f != nil {
		root, err := f.Group("/")
		must(t, err)
		must(t, g.Add(os.Getpid()))
		wantErrSelf(t, "freezing the caller", g.Freeze(t.Context()))
		wantErrSelf(t, "freezing what is above the caller", root.Freeze(t.Context()))
		wantErrSelf(t, "freezing the caller in a gang", freezer.Gang{root, g}.Freeze(t.Context()))
		wantErrSelf(t, "killing the caller", g.Kill(t.Context()))
		wantState(t, g, freezer.Thawed)
		wantState(t, root, freezer.Thawed)
		return
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) { passes(t, again(t, g)) })
}

func TestAnAncestorOfTheCallerIsNotFrozenUnlessForced(t *testing.T) {
	if f, g := elsewhere(t); f != nil {
		parent := os.Getppid() // the shell
		must(t, g.Add(parent))
		must(t, g.Add(os.Getpid()))
		root, err := f.Group("/")
		must(t, err)
		must(t, root.Add(os.Getpid()))
		wantErrSelf(t, "freezing the shell", g.Freeze(t.Context()))
		wantState(t, g, freezer.Thawed)

		must(t, g.Freeze(t.Context(), freezer.Force()))
		wantState(t, g, freezer.Frozen)
		must(t, g.Thaw())

		must(t, root.Add(parent))
		must(t, g.Freeze(t.Context()))
		wantErrSelf(t, "moving the shell to where it would freeze", g.Add(parent))
		wantErrSelf(t, "moving the shell as a task", g.AddTask(parent))
		wantErrSelf(t, "moving the shell with all below it", g.AddTree(parent))
		must(t, g.Thaw())
		must(t, g.Add(parent))
		return
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		passes(t, again(t, g, "sh", "-c", `"$@"; exit $?`, "sh"))
	})
}

func TestACallerThatForcesItIsFrozenUntilSomebodyThawsIt(t *testing.T) {
	if f, g := elsewhere(t); f != nil {
		must(t, g.Add(os.Getpid()))
		if err := g.Freeze(t.Context(), freezer.Force()); err != nil && !errors.Is(err, freezer.ErrThawed) {
			t.Error(err)
		}
		return
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		cmd := again(t, g)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		freezertest.Run(t, cmd)
		freezertest.Eventually(t, "it froze itself", func() bool {
			s, err := g.State()
			pids, _ := g.Processes()
			return err == nil && s == freezer.Frozen && len(pids) == 1
		})
		must(t, g.Thaw())
		err := cmd.Wait()
		passed(t, out.String(), err)
	})
}

func TestACallerMayJoinAFrozenGroup(t *testing.T) {
	if f, g := elsewhere(t); f != nil {
		must(t, g.Add(os.Getpid()))
		freezertest.Eventually(t, "the thaw", func() bool { // the backend ptrace stops it in a moment only
			s, err := g.State()
			return err == nil && s == freezer.Thawed
		})
		return
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Freeze(t.Context()))
		cmd := again(t, g)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		freezertest.Run(t, cmd)
		freezertest.Eventually(t, "it is in the group, frozen", func() bool {
			pids, _ := g.Processes()
			s, err := g.State()
			return len(pids) == 1 && err == nil && s == freezer.Frozen
		})
		must(t, g.Thaw())
		err := cmd.Wait()
		passed(t, out.String(), err)
	})
}

const servesEnv = "FREEZER_TEST_SERVES"

// serve is a server of a FUSE file system, until its input ends.
func serve(t *testing.T, dir string) {
	server, err := fs.Mount(dir, &fs.Inode{}, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}})
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	fmt.Println("serving")
	_, _ = io.Copy(io.Discard, os.Stdin)
	must(t, server.Unmount())
}

func TestTheServerOfAFileSystemThatTheCallerUsesIsNotFrozen(t *testing.T) {
	if f, g := elsewhere(t); f != nil {
		if dir := os.Getenv(servesEnv); dir != "" {
			serve(t, dir)
			return
		}
		wantErrSelf(t, "freezing the server", g.Freeze(t.Context()))
		wantState(t, g, freezer.Thawed)
		// Once it is frozen by force, nothing waits for it.
		must(t, g.Freeze(t.Context(), freezer.Force()))
		other, err := f.Create("other")
		must(t, err)
		must(t, other.Freeze(t.Context()))
		must(t, g.Thaw())
		return
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		dir := t.TempDir()
		server := again(t, g)
		server.Env = append(server.Env, servesEnv+"="+dir)
		in, err := server.StdinPipe()
		must(t, err)
		out, err := server.StdoutPipe()
		must(t, err)
		forgetMount := freezertest.OnUnmount(dir)
		unmount := func() { _ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) }
		wayOut := time.AfterFunc(20*time.Second, unmount) // should somebody wait for the frozen server
		t.Cleanup(func() {
			wayOut.Stop()
			unmount()
			forgetMount()
		})
		freezertest.Run(t, server)
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != "serving" {
			if _, why, no := strings.Cut(lines.Text(), "no FUSE here"); no {
				t.Skip("no FUSE here" + why)
			}
		}
		must(t, g.Add(server.Process.Pid))
		user := again(t, g)
		user.Dir = dir
		user.Env = append(user.Env, "PWD="+dir)
		passes(t, user)
		must(t, in.Close())
		must(t, server.Wait())
	})
}

func TestTheTopOfAHierarchyCannotBeFrozen(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		f, err := freezer.Open(freezer.WithBackend(g.Backend()))
		must(t, err)
		top, err := f.Group(f.Mount())
		must(t, err)
		for _, opts := range [][]freezer.FreezeOption{nil, {freezer.Force()}} {
			if err := top.Freeze(t.Context(), opts...); !errors.Is(err, freezer.ErrSelf) && !errors.Is(err, freezer.ErrUnsupported) {
				t.Errorf("freezing %s: %v", top.Dir(), err)
			}
		}
	})
}
