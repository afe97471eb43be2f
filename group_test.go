package freezer_test

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestCheckName(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, name := range []string{"/", "a", "sim/rank0", "a b", "-x", "ä", "…", "..a", "a..", ".hidden", "x.freezer", "cgroup", "tasks2", long, long + "/" + long, "a\\b", "a:b", "\xff"} {
		if err := freezer.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, why := range map[string]string{
		"":                               "empty",
		"/a":                             "empty",
		"a/":                             "empty",
		"a//b":                           "empty",
		".":                              "leave the tree",
		"..":                             "leave the tree",
		"a/../b":                         "leave the tree",
		"a/.":                            "leave the tree",
		long + "x":                       "longer than 255",
		"a/" + long + "x":                "longer than 255",
		strings.Repeat("x/", 2000) + "x": "too long",
		"a\nb":                           "newline",
		"a\x00b":                         "NUL",
		"tasks":                          "uses that name",
		"a/notify_on_release":            "uses that name",
		"release_agent":                  "uses that name",
		"cgroup.procs":                   "uses that name",
		"freezer.state":                  "uses that name",
		".freezer-warm":                  "uses that name",
	} {
		err := freezer.CheckName(name)
		if !errors.Is(err, freezer.ErrName) || freezer.Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), why) || len(err.Error()) > 300 {
			t.Errorf("%.40q: %v, want %q", name, err, why)
		}
	}
}

func TestNamesThatBeginWithASlash(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		f, err := freezer.Open(freezer.WithBackend(g.Backend()))
		must(t, err)
		for _, name := range []string{"//", "/.", "/..", "/a/../b", "/\n", "/a\x00", "///"} {
			if x, err := f.Group(name); !errors.Is(err, freezer.ErrName) {
				t.Errorf("%q: %v, %v", name, x, err)
			}
		}
		for name, dir := range map[string]string{
			g.Dir():                                g.Dir(),
			g.Dir() + "/":                          g.Dir(),
			strings.TrimPrefix(g.Dir(), f.Mount()): g.Dir(),
			f.Mount():                              f.Mount(),
			f.Mount() + "/no/such":                 f.Mount() + "/no/such",
			"/no/such":                             f.Mount() + "/no/such",
			"/./" + strings.TrimPrefix(g.Dir(), f.Mount()): g.Dir(),
		} {
			x, err := f.Group(name)
			must(t, err)
			if x.Dir() != dir || x.Backend() != g.Backend() {
				t.Errorf("%q is %s on %s, want %s", name, x.Dir(), x.Backend(), dir)
			}
		}
		if _, err := f.Create("/no/such"); !errors.Is(err, freezer.ErrName) {
			t.Errorf("Create: %v", err)
		}
	})
}

func TestAGroupOfTheOtherHierarchyIsFoundByItsPath(t *testing.T) {
	one, two := freezertest.Tree(t, freezer.Cgroup2), freezertest.Tree(t, freezer.Cgroup1)
	g, err := two.Create("g")
	must(t, err)
	must(t, g.Add(freezertest.Sleeper(t)))
	same, err := one.Group(strings.TrimPrefix(g.Dir(), two.Mount()))
	must(t, err)
	if same.Backend() != freezer.Cgroup1 || same.Dir() != g.Dir() {
		t.Fatalf("it is %s on %s", same.Dir(), same.Backend())
	}
	must(t, same.Freeze(t.Context()))
	wantState(t, g, freezer.Frozen)
}

func TestHandles(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Freeze(t.Context()))
		g.Close()
		g.Close()
		wantState(t, g, freezer.Frozen)
		must(t, g.Remove())
		if _, err := g.State(); !errors.Is(err, freezer.ErrNotExist) || g.Exists() {
			t.Errorf("of a group that is gone: %v", err)
		}
		if !g.Created().IsZero() {
			t.Error("it has a time at which it was created")
		}
		below(t, g, "g")
		wantState(t, g, freezer.Thawed)
		must(t, g.Freeze(t.Context()))
	})
}

func TestCreateAllMakesWhatIsMissing(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			for range 2 {
				g, err := f.CreateAll("a/b/c")
				must(t, err)
				if g.Name() != "a/b/c" || !g.Exists() {
					t.Errorf("it is %s", g.Name())
				}
			}
			for _, name := range []string{"", "a//b", "a/../b", "x/\n"} {
				if _, err := f.CreateAll(name); !errors.Is(err, freezer.ErrName) {
					t.Errorf("%q: %v", name, err)
				}
			}
			groups, err := f.Groups()
			must(t, err)
			var names []string
			for _, g := range groups {
				names = append(names, g.Name())
			}
			if !slices.Equal(names, []string{"a", "a/b", "a/b/c"}) {
				t.Errorf("groups: %q", names)
			}
			if _, err := f.Create("/"); !errors.Is(err, freezer.ErrExist) {
				t.Errorf("the root: %v", err)
			}
		})
	}
}

func TestCleanKeepsWhatIsInUse(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		f, err := freezer.Open(freezer.WithBackend(g.Backend()), freezer.WithRoot(strings.TrimSuffix(g.Dir(), "/g")))
		must(t, err)
		must(t, g.Freeze(t.Context()))
		must(t, f.Clean())
		wantState(t, g, freezer.Frozen)
		must(t, g.Thaw())
		root, err := f.Group("/")
		must(t, err)
		if all, err := root.Walk(); err != nil || len(all) != 2 {
			t.Errorf("groups: %v, %v", all, err)
		}
		must(t, g.Remove())
		must(t, f.Clean())
		if root.Exists() {
			t.Error("an empty tree is still there")
		}
		must(t, f.Clean())
		if groups, err := f.Groups(); len(groups) > 0 || err != nil {
			t.Errorf("groups of a tree that is not there: %v, %v", groups, err)
		}
	})
}
