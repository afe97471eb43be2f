package freezer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// soon is a deadline that a group with a blocker misses, and no other does.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func block(t *testing.T, g *freezer.Group) (pid int, release func()) {
	t.Helper()
	pid, release = freezertest.Blocker(t)
	must(t, g.Add(pid))
	return pid, release
}

func wantLate(t *testing.T, err error, cause error) *freezer.FreezingError {
	t.Helper()
	var late *freezer.FreezingError
	if !errors.As(err, &late) || !errors.Is(err, freezer.ErrFreezing) || !errors.Is(err, syscall.EBUSY) || !errors.Is(err, cause) {
		t.Fatalf("got %v, want a FreezingError by reason of %v", err, cause)
	}
	return late
}

func TestAFreezeThatIsLateNamesItsBlockersAndKeepsFreezing(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, _ := block(t, g)
		must(t, g.Add(freezertest.Sleeper(t)))
		err := g.Freeze(soon(t))
		late := wantLate(t, err, context.DeadlineExceeded)
		if len(late.Blockers) != 1 || late.Blockers[0].PID != pid || late.Thawed {
			t.Errorf("%+v", late)
		}
		if text := err.Error(); !strings.Contains(text, fmt.Sprint(pid)) || !strings.Contains(text, "stays FREEZING") {
			t.Errorf("the message does not help: %s", text)
		}
		wantState(t, g, freezer.Freezing)
	})
}

func TestAFreezeThatIsLateThawsBackWhenAskedTo(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		block(t, g)
		if late := wantLate(t, g.Freeze(soon(t), freezer.ThawOnTimeout()), context.DeadlineExceeded); !late.Thawed {
			t.Errorf("%+v", late)
		}
		wantState(t, g, freezer.Thawed)

		// One that was freezing before stays so.
		wantLate(t, g.Freeze(soon(t)), context.DeadlineExceeded)
		wantLate(t, g.Freeze(soon(t), freezer.ThawOnTimeout()), context.DeadlineExceeded)
		wantState(t, g, freezer.Freezing)
	})
}

func TestAFreezeEndsWithItsContext(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		block(t, g)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		wantLate(t, g.Freeze(ctx), context.Canceled)
		wantState(t, g, freezer.Freezing)
	})
}

func TestAnExpiredContextStillFreezesWhatCanBeFrozenAtOnce(t *testing.T) {
	eachCgroup(t, func(t *testing.T, g *freezer.Group) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		must(t, g.Freeze(ctx)) // it is empty
		wantState(t, g, freezer.Frozen)
	})
}

func TestAThawEndsAFreezeThatWaits(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		block(t, g)
		ended := make(chan error)
		go func() { ended <- g.Freeze(context.Background()) }()
		freezertest.Eventually(t, "it is freezing", func() bool {
			s, err := g.State()
			return err == nil && s == freezer.Freezing
		})
		must(t, g.Thaw())
		if err := <-ended; !errors.Is(err, freezer.ErrThawed) || freezer.Errno(err) != syscall.ECANCELED {
			t.Errorf("Freeze: %v", err)
		}
		wantState(t, g, freezer.Thawed)
	})
}

func TestAGroupThatVanishesWhileItFreezes(t *testing.T) {
	eachCgroup(t, func(t *testing.T, g *freezer.Group) {
		for range 5 {
			pid, release := block(t, g)
			ended := make(chan error)
			go func() { ended <- g.Freeze(context.Background()) }()
			freezertest.Eventually(t, "it is freezing", func() bool {
				s, err := g.State()
				return err == nil && s == freezer.Freezing
			})
			must(t, os.WriteFile(g.Dir()+"/../cgroup.procs", fmt.Append(nil, pid), 0))
			freezertest.Eventually(t, "it can be removed", func() bool { return unix.Rmdir(g.Dir()) == nil })
			if err := <-ended; err != nil && !errors.Is(err, freezer.ErrNotExist) { // it may have been FROZEN just before
				t.Errorf("Freeze: %v", err)
			}
			release()
			must(t, os.Mkdir(g.Dir(), 0o755))
			wantState(t, g, freezer.Thawed) // by the old handle
		}
	})
}

func TestAGangIsFrozenAsAWholeOrNotAtAll(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			var gang freezer.Gang
			for i := range 5 {
				g, err := f.Create(fmt.Sprint(i))
				must(t, err)
				must(t, g.Add(freezertest.Sleeper(t)))
				gang = append(gang, g)
			}
			must(t, gang[4].Freeze(t.Context())) // by somebody else, before
			_, release := block(t, gang[2])
			err := gang.Freeze(soon(t))
			if late := wantLate(t, err, context.DeadlineExceeded); !late.Thawed {
				t.Errorf("%+v", late)
			}
			var op *freezer.OpError
			if !errors.As(err, &op) || op.Group != "2" {
				t.Errorf("the error does not name group 2: %v", err)
			}
			for _, g := range gang[:4] {
				wantState(t, g, freezer.Thawed)
			}
			wantState(t, gang[4], freezer.Frozen)

			release()
			must(t, gang.Freeze(t.Context()))
			for _, g := range gang {
				wantState(t, g, freezer.Frozen)
			}
			must(t, gang.Thaw())
			for _, g := range gang {
				wantState(t, g, freezer.Thawed)
			}

			gone, err := f.Group("gone")
			must(t, err)
			if err := append(gang, gone).Freeze(t.Context()); !errors.Is(err, freezer.ErrNotExist) {
				t.Errorf("a gang with a group that is not there: %v", err)
			}
			for _, g := range gang {
				wantState(t, g, freezer.Thawed)
			}
			must(t, freezer.Gang{}.Freeze(t.Context()))
		})
	}
}

func TestParentsWithTasksAreFrozenOnlyWhenAllBelowIs(t *testing.T) {
	eachCgroup(t, func(t *testing.T, g *freezer.Group) {
		f, err := freezer.Open(freezer.WithBackend(g.Backend()), freezer.WithRoot(strings.TrimSuffix(g.Dir(), "/g")))
		must(t, err)
		below, err := f.Create("g/below")
		must(t, err)
		root, err := f.Group("/")
		must(t, err)

		// The kernel's own word is FROZEN in each of these cases on cgroup2.
		sleeper := freezertest.Sleeper(t)
		pid, _ := freezertest.Blocker(t)
		for _, test := range []struct {
			name             string
			sleeper, blocked *freezer.Group
		}{
			{"a blocker above an empty group", nil, g},
			{"a blocker above a task", below, g},
			{"a blocker below a task", g, below},
		} {
			if test.sleeper != nil {
				must(t, test.sleeper.Add(sleeper))
			}
			must(t, test.blocked.Add(pid))
			late := wantLate(t, g.Freeze(soon(t)), context.DeadlineExceeded)
			if len(late.Blockers) != 1 || late.Blockers[0].PID != pid {
				t.Errorf("%s: %+v", test.name, late)
			}
			wantState(t, g, freezer.Freezing)
			must(t, root.Add(pid))
			freezertest.Eventually(t, test.name+" is gone", func() bool {
				s, err := g.State()
				return err == nil && s == freezer.Frozen
			})
			must(t, g.Thaw())
		}
	})
}

func TestWithoutDescriptorsFreezingFailsBeforeItBegins(t *testing.T) {
	if _, g := elsewhere(t); g != nil {
		var all []int
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}))
		for {
			fd, err := unix.Dup(0)
			if err != nil {
				break
			}
			all = append(all, fd)
		}
		err := g.Freeze(t.Context())
		for _, fd := range all {
			unix.Close(fd)
		}
		if !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), "ulimit -n") {
			t.Errorf("Freeze: %v", err)
		}
		wantState(t, g, freezer.Thawed)
		must(t, g.Freeze(t.Context()))
		return
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Add(freezertest.Sleeper(t)))
		passes(t, again(t, g))
	})
}

func TestAReadOnlyHierarchyCanBeReadAndNotChanged(t *testing.T) {
	if f, g := elsewhere(t); g != nil {
		if err := unix.Mount("", f.Mount(), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			t.Skip(err)
		}
		f, err := freezer.Open(freezer.WithBackend(f.Backend()))
		must(t, err)
		if _, err := f.Create("x"); !errors.Is(err, freezer.ErrPermission) || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("Create: %v", err)
		}
		g, err := f.Group(g.Dir())
		must(t, err)
		s, err := g.States()
		must(t, err)
		if want := (freezer.States{Self: freezer.Freezing, Effective: freezer.Frozen}); s != want {
			t.Errorf("states are %+v, want %+v", s, want)
		}
		if pids, err := g.Processes(); err != nil || len(pids) != 1 {
			t.Errorf("processes: %v, %v", pids, err)
		}
		for what, err := range map[string]error{
			"Freeze": g.Freeze(t.Context()), "Thaw": g.Thaw(), "Add": g.Add(os.Getpid()), "Kill": g.Kill(t.Context()),
		} {
			if err == nil || freezer.Errno(err) != syscall.EROFS {
				t.Errorf("%s: %v", what, err)
			}
		}
		wantState(t, g, freezer.Frozen)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can remount a hierarchy")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("no unshare here")
	}
	eachCgroup(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Add(freezertest.Sleeper(t)))
		must(t, g.Freeze(t.Context()))
		passes(t, again(t, g, unshare, "--mount", "--"))
		wantState(t, g, freezer.Frozen)
	})
}

func TestManyProcessesWorkOnOneTree(t *testing.T) {
	if f, shared := elsewhere(t); f != nil {
		own := fmt.Sprintf("own%d", os.Getpid())
		pid := freezertest.Sleeper(t)
		root, err := f.Group("/")
		must(t, err)
		for range 15 {
			g, err := f.Create(own)
			must(t, err)
			must(t, g.Add(pid))
			must(t, g.Freeze(t.Context()))
			must(t, g.Thaw())
			must(t, root.Add(pid))
			must(t, g.Remove())
			if err := shared.Freeze(t.Context()); err != nil && !errors.Is(err, freezer.ErrThawed) {
				t.Errorf("freeze the shared group: %v", err)
			}
			must(t, shared.Thaw())
			if _, err := f.List(); err != nil {
				t.Errorf("list: %v", err)
			}
		}
		return
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Add(freezertest.Sleeper(t)))
		var all sync.WaitGroup
		outs, errs := make([]string, 4), make([]error, 4)
		for i := range outs {
			cmd := again(t, g)
			all.Go(func() {
				out, err := cmd.CombinedOutput()
				outs[i], errs[i] = string(out), err
			})
		}
		all.Wait()
		for i := range outs {
			passed(t, outs[i], errs[i])
		}
		wantState(t, g, freezer.Thawed)
		if groups, err := os.ReadDir(g.Dir() + "/.."); err != nil || slices.ContainsFunc(groups, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "own") }) {
			t.Errorf("left: %v, %v", groups, err)
		}
	})
}
