package freezer_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// eachBackend runs a test on a fresh group of each backend.
func eachBackend(t *testing.T, test func(t *testing.T, g *freezer.Group)) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			g, err := f.Create("g")
			if err != nil {
				t.Fatal(err)
			}
			test(t, g)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantState(t *testing.T, g *freezer.Group, want freezer.State) {
	t.Helper()
	got, err := g.State()
	must(t, err)
	if got != want {
		t.Fatalf("state is %v, want %v", got, want)
	}
}

func owners(t *testing.T, g *freezer.Group) string {
	t.Helper()
	holds, err := g.Holds()
	must(t, err)
	var names []string
	for _, h := range holds {
		name := h.Owner
		if h.Overridden {
			name += "(overridden)"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func wantOwners(t *testing.T, g *freezer.Group, want string) {
	t.Helper()
	if got := owners(t, g); got != want {
		t.Fatalf("held by %q, want %q", got, want)
	}
}

func wantHeld(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, freezer.ErrHeld) || freezer.Errno(err) != unix.EBUSY {
		t.Fatalf("got %v, want ErrHeld", err)
	}
}

func TestGroupThawsWhenItsLastHoldGoes(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Freeze(t.Context(), freezer.By("backup"), freezer.Why("snapshot")))
		must(t, g.Freeze(t.Context(), freezer.By("ops")))
		wantOwners(t, g, "backup ops")
		wantHeld(t, g.Thaw(freezer.HeldBy("ops")))
		wantState(t, g, freezer.Frozen)
		wantHeld(t, g.Thaw()) // the default hold is not even there
		must(t, g.Thaw(freezer.HeldBy("backup")))
		wantState(t, g, freezer.Thawed)
		wantOwners(t, g, "")
	})
}

func TestDefaultHoldIsKeptBesideNamedOnes(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Freeze(t.Context()))
		wantOwners(t, g, "default")
		must(t, g.Freeze(t.Context(), freezer.By("a")))
		wantOwners(t, g, "a default")
		wantHeld(t, g.Thaw(freezer.HeldBy("a")))
		wantOwners(t, g, "default")
		must(t, g.Thaw())
		wantState(t, g, freezer.Thawed)

		must(t, g.Freeze(t.Context(), freezer.By("a")))
		must(t, g.Freeze(t.Context()))
		wantOwners(t, g, "a default")
		wantHeld(t, g.Thaw())
		wantOwners(t, g, "a")
		must(t, g.Thaw(freezer.AllHolds()))
		wantState(t, g, freezer.Thawed)
	})
}

func TestThawByAnOwnerWithoutHoldChangesNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Freeze(t.Context()))
		if err := g.Thaw(freezer.HeldBy("nobody")); !errors.Is(err, freezer.ErrNoHold) {
			t.Fatalf("got %v, want ErrNoHold", err)
		}
		wantState(t, g, freezer.Frozen)
	})
}

func TestRawThawOverridesHoldsForGood(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		if g.Backend() == freezer.Ptrace {
			t.Skip("there is no file of the kernel's to write")
		}
		must(t, g.Freeze(t.Context(), freezer.By("a")))
		file, thawed := "/cgroup.freeze", "0"
		if g.Backend() == freezer.Cgroup1 {
			file, thawed = "/freezer.state", "THAWED"
		}
		must(t, exec.Command("sh", "-c", "printf "+thawed+" > '"+g.Dir()+file+"'").Run())
		wantOwners(t, g, "a(overridden)")
		must(t, g.Freeze(t.Context(), freezer.By("b")))
		wantOwners(t, g, "b") // not applied again
		must(t, g.Thaw(freezer.HeldBy("b")))
		wantState(t, g, freezer.Thawed)
	})
}

func TestGarbageInAHoldIsAHoldThatOnlyThawAllEnds(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Freeze(t.Context(), freezer.By("a")))
		must(t, unix.Setxattr(g.Dir(), "user.freezer.hold.x", []byte("\xff{"), 0))
		wantHeld(t, g.Thaw(freezer.HeldBy("a")))
		wantOwners(t, g, "x")
		must(t, g.Thaw(freezer.AllHolds()))
		wantState(t, g, freezer.Thawed)
	})
}

func TestGroupIsFullOfAttributes(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		for i := 0; ; i++ {
			err := unix.Setxattr(g.Dir(), "user.x"+strings.Repeat("x", i), nil, 0)
			if err == unix.ENOSPC {
				break
			}
			must(t, err)
		}
		err := g.Freeze(t.Context(), freezer.By("a"))
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("got %v, want ENOSPC", err)
		}
		wantState(t, g, freezer.Thawed)
		must(t, g.Freeze(t.Context()))
		must(t, g.Thaw())
	})
}

func TestFreezeRefusesImpossibleHolds(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		for _, owner := range []string{"", "a/b", "a\nb", "a\x00", strings.Repeat("x", 201)} {
			if err := g.Freeze(t.Context(), freezer.By(owner), freezer.Why("x")); owner != "" && !errors.Is(err, freezer.ErrName) {
				t.Errorf("owner %q: got %v, want ErrName", owner, err)
			}
		}
		if err := g.Freeze(t.Context(), freezer.While(1<<22)); !errors.Is(err, freezer.ErrNoTask) {
			t.Errorf("got %v, want ErrNoTask", err)
		}
	})
}

func TestGangThatFailsTakesOnlyItsOwnHoldsBack(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Freeze(t.Context(), freezer.By("before")))
		gone, err := freezerOf(t, g).Group("gone")
		must(t, err)
		err = freezer.Gang{g, gone}.Freeze(t.Context(), freezer.By("gang"))
		if !errors.Is(err, freezer.ErrNotExist) {
			t.Fatalf("got %v, want ErrNotExist", err)
		}
		wantOwners(t, g, "before")
		wantState(t, g, freezer.Frozen)
	})
}

// freezerOf opens the tree of a group once more, as another process would.
func freezerOf(t *testing.T, g *freezer.Group) *freezer.Freezer {
	t.Helper()
	f, err := freezer.Open(freezer.WithBackend(g.Backend()), freezer.WithRoot(strings.TrimSuffix(g.Dir(), "/"+g.Name())))
	must(t, err)
	return f
}
