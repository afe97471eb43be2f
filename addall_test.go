package freezer_test

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// wantGroups compares the names of all groups.
func wantGroups(t *testing.T, f *freezer.Freezer, want ...string) {
	t.Helper()
	groups, err := f.Groups()
	must(t, err)
	var names []string
	for _, g := range groups {
		names = append(names, g.Name())
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("groups: %q, want %q", names, want)
	}
}

func TestAddAllMovesEachOrNone(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			one, two := freezertest.Sleeper(t), freezertest.Sleeper(t)
			_, err := f.AddAll("a/b", []int{one}, false)
			must(t, err)
			b, err := f.Group("a/b")
			must(t, err)

			dead := freezertest.Start(t, "true")
			must(t, dead.Wait())
			for _, bad := range []struct {
				pid  int
				want error
			}{{dead.Process.Pid, freezer.ErrNoTask}, {0, freezer.ErrPID}, {-1, freezer.ErrPID}, {1 << 30, freezer.ErrPID}} {
				if _, err := f.AddAll("c/d", []int{one, two, bad.pid}, false); !errors.Is(err, bad.want) {
					t.Errorf("with %d: %v", bad.pid, err)
				}
				if !b.Contains(one) {
					t.Fatalf("with %d: the first one was moved", bad.pid)
				}
			}
			wantGroups(t, f, "a", "a/b")

			undo, err := f.AddAll("c/d", []int{one, two}, false)
			must(t, err)
			d, err := f.Group("c/d")
			must(t, err)
			if !d.Contains(one) || !d.Contains(two) {
				t.Error("they are not in it")
			}
			undo()
			if !b.Contains(one) {
				t.Error("it is not back where it was")
			}
			wantGroups(t, f, "a", "a/b")
		})
	}
}

func TestAddAllRefusesNamesAndMakesNothing(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			pid := freezertest.Sleeper(t)
			for _, name := range []string{"..", "a/../b", "a\nb", "a\x00b", "", strings.Repeat("x", 256), "a/tasks"} {
				if _, err := f.AddAll(name, []int{pid}, false); !errors.Is(err, freezer.ErrName) {
					t.Errorf("%.20q: %v", name, err)
				}
			}
			if _, err := f.AddAll("/no/such/cgroup", []int{pid}, false); !errors.Is(err, freezer.ErrNotExist) {
				t.Errorf("a cgroup that is not there: %v", err)
			}
			wantGroups(t, f)
		})
	}
}

func TestAddAllWithTreeTakesDescendantsAlong(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		cmd := freezertest.Start(t, "sh", "-c", "sleep 1000 & wait")
		child := 0
		freezertest.Eventually(t, "there is a child", func() bool {
			out, _ := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(cmd.Process.Pid)).Output()
			child, _ = strconv.Atoi(strings.TrimSpace(string(out)))
			return child != 0
		})
		t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
		f, err := freezer.Open(freezer.WithBackend(g.Backend()))
		must(t, err)
		undo, err := f.AddAll(g.Dir(), []int{cmd.Process.Pid}, true)
		must(t, err)
		if !g.Contains(cmd.Process.Pid) || !g.Contains(child) {
			t.Error("parent and child are not in it")
		}
		undo()
		if g.Contains(cmd.Process.Pid) || g.Contains(child) {
			t.Error("they are still in it")
		}
	})
}

func TestFrozenByIsTheNearestGroupToThaw(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			c, err := f.CreateAll("a/b/c")
			must(t, err)
			by := func(want string) {
				t.Helper()
				got, err := c.FrozenBy()
				must(t, err)
				switch {
				case got == nil && want != "":
					t.Errorf("nobody, want %s", want)
				case got != nil && got.Name() != want:
					t.Errorf("%s, want %q", got.Name(), want)
				case got != nil:
					same, err := f.Group(got.Name()) // the name is one that can be used
					must(t, err)
					if same.Dir() != got.Dir() {
						t.Errorf("%s is %s, not %s", got.Name(), same.Dir(), got.Dir())
					}
				}
			}
			must(t, c.Freeze(t.Context()))
			by("")
			for _, name := range []string{"/", "a", "a/b"} {
				g, err := f.Group(name)
				must(t, err)
				must(t, g.Freeze(t.Context()))
				by(name)
			}
		})
	}
}

func TestRemoveAllLeavesNothing(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			for _, name := range []string{"a", "a/b", "a/b/c", "a/d", "e"} {
				_, err := f.AddAll(name, []int{freezertest.Sleeper(t)}, false)
				must(t, err)
			}
			a, err := f.Group("a")
			must(t, err)
			must(t, a.Freeze(t.Context()))
			must(t, a.RemoveAll(t.Context()))
			wantGroups(t, f, "e")
			if err := a.RemoveAll(t.Context()); !errors.Is(err, freezer.ErrNotExist) {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

func TestMembersAreThoseOfTheGroupsBelow(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			want := map[int]string{}
			for _, name := range []string{"a", "a/b", "a/b/c", "d"} {
				pid := freezertest.Sleeper(t)
				_, err := f.AddAll(name, []int{pid}, false)
				must(t, err)
				if name != "d" {
					want[pid] = name
				}
			}
			a, err := f.Group("a")
			must(t, err)
			list, err := a.Members()
			must(t, err)
			if len(list) != len(want) {
				t.Errorf("%d processes", len(list))
			}
			for _, p := range list {
				if want[p.PID] != p.Group || p.Command != "sleep 1000" || p.Threads != 1 {
					t.Errorf("%+v", p)
				}
			}
		})
	}
}
