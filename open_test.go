package freezer

import (
	"errors"
	"strings"
	"testing"

	"github.com/cgfreezer/freezer/internal/mountinfo"
)

// withMounts has Open see these mounts instead of its own.
func withMounts(mounts ...mountinfo.Mount) Option {
	return func(o *options) { o.mounts = append([]mountinfo.Mount{}, mounts...) }
}

func TestOpenOnAHostWithoutAFreezer(t *testing.T) {
	other := mountinfo.Mount{Point: "/", Root: "/", Type: "ext4"}
	memory := mountinfo.Mount{Point: "/sys/fs/cgroup/memory", Root: "/", Type: "cgroup", Super: "rw,memory"}
	hidden := mountinfo.Mount{Point: "/proc", Root: "/", Type: "cgroup2", Super: "rw"} // as its Statfs says
	for name, mounts := range map[string][]mountinfo.Mount{
		"no cgroups at all": {other},
		"other controllers": {other, memory},
		"a hidden mount":    {other, hidden},
	} {
		for _, backend := range []string{Cgroup2, Cgroup1} {
			_, err := Open(withMounts(mounts...), WithBackend(backend))
			if !errors.Is(err, ErrNoBackend) || !strings.Contains(err.Error(), "neither cgroup2 nor the cgroup1 freezer is mounted") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestOpenRefusesWhatIsNotHere(t *testing.T) {
	usual, err := Open()
	if err != nil {
		t.Skip(err)
	}
	for name, opts := range map[string][]Option{
		"an unknown backend":           {WithBackend("cgroup3")},
		"a root elsewhere":             {WithRoot("/tmp")},
		"a relative root":              {WithRoot("freezer")},
		"a root that leaves the mount": {WithRoot(usual.Mount() + "/../../../../etc")},
		"a root beside the mount":      {WithRoot(usual.Mount() + "x")},
	} {
		if f, err := Open(opts...); !errors.Is(err, ErrNoBackend) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	f, err := Open(WithRoot(usual.Mount() + "/a//b/../c/"))
	if err != nil || f.Root() != usual.Mount()+"/a/c" {
		t.Errorf("a root that is not clean: %v", err)
	}
}

func TestOpenMakesNothing(t *testing.T) {
	f, err := Open()
	if err != nil {
		t.Skip(err)
	}
	f, err = Open(WithRoot(f.Mount() + "/freezer-test-never-made"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := f.Group("/")
	if err != nil {
		t.Skip(err)
	}
	if groups, err := f.Groups(); len(groups) > 0 || err != nil || root.Exists() {
		t.Errorf("%v, %v", groups, err)
	}
}

func TestUnder(t *testing.T) {
	for _, test := range []struct {
		dir, path string
		want      bool
	}{
		{"/a", "/a", true},
		{"/a", "/a/b", true},
		{"/a", "/ab", false},
		{"/a", "/", false},
		{"/", "/a", true},
		{"/", "/", true},
		{"/a/b", "/a", false},
		{"/a", "", false},
	} {
		if got := under(test.dir, test.path); got != test.want {
			t.Errorf("under(%q, %q) = %v", test.dir, test.path, got)
		}
	}
}
