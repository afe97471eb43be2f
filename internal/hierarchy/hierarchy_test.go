package hierarchy

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

func TestDirOfAPathInProc(t *testing.T) {
	const m = "/sys/fs/cgroup/freezer"
	for _, test := range []struct {
		name, root, path string
		want             string // empty: it cannot be seen
	}{
		{"the top", "/", "/", m},
		{"a group", "/", "/a/b", m + "/a/b"},
		{"a container's own, seen by it", "/docker/x", "/docker/x", m},
		{"below a container's own", "/docker/x", "/docker/x/sim", m + "/sim"},
		{"beside the container", "/docker/x", "/docker/y", ""},
		{"a longer name that begins like the container's", "/docker/x", "/docker/xy", ""},
		{"above the container", "/docker/x", "/docker", ""},
		{"above the cgroup namespace", "/", "/..", ""},
		{"beside the cgroup namespace", "/", "/../other", ""},
		{"a group whose name begins with dots", "/", "/..a", m + "/..a"},
		{"a mount from above the namespace, seen from within", "/..", "/../other", m + "/other"},
		{"a mount from above the namespace, its own place", "/..", "/a", ""},
		{"a mount from above the namespace, further up", "/..", "/../..", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := (Tree{Mount: m, root: test.root}).dir(test.path)
			if dir != test.want || (err == unix.ENOENT) != (test.want == "") {
				t.Errorf("dir(%q) through a mount of %q = %q, %v; want %q", test.path, test.root, dir, err, test.want)
			}
		})
	}
}

// procMount stands for a hierarchy: there is one on each host.
var procMount = mountinfo.Mount{Point: "/proc", Root: "/", Options: "rw", Type: "proc", Super: "rw"}

func isProc(m mountinfo.Mount) bool { return m.Type == "proc" }

func found(mounts ...mountinfo.Mount) (Tree, bool) {
	return Find(mounts, unix.PROC_SUPER_MAGIC, isProc, func(proc.Cgroup) bool { return true })
}

func TestFind(t *testing.T) {
	ro := procMount
	ro.Options = "ro"
	cover := mountinfo.Mount{Point: "/proc", Root: "/", Options: "rw", Type: "tmpfs", Super: "rw"}
	elsewhere := procMount
	elsewhere.Point = "/tmp" // which is no proc: something that is not listed hides it
	thread := procMount
	thread.Point, thread.Root = "/proc/self", "/x"

	if _, ok := found(); ok {
		t.Error("found one among no mounts")
	}
	if tree, ok := found(procMount); !ok || tree.Mount != "/proc" || tree.ReadOnly {
		t.Errorf("one: %+v, %v", tree, ok)
	}
	if tree, ok := found(procMount, ro); !ok || !tree.ReadOnly {
		t.Errorf("a read-only mount over it: %+v, %v", tree, ok)
	}
	if tree, ok := found(procMount, cover); ok {
		t.Errorf("another file system over it: %+v", tree)
	}
	if tree, ok := found(elsewhere); ok {
		t.Errorf("not what it says: %+v", tree)
	}
	if tree, ok := found(elsewhere, thread, ro); !ok || tree.Mount != "/proc/self" || tree.root != "/x" {
		t.Errorf("the one that can be written: %+v, %v", tree, ok)
	}
	if tree, ok := found(ro, thread); !ok || tree.Mount != "/proc/self" {
		t.Errorf("the one that can be written, second: %+v, %v", tree, ok)
	}
}

func TestDirIsThatOfTheHierarchyThatMatches(t *testing.T) {
	tree := Tree{Mount: "/m", root: "/", match: func(c proc.Cgroup) bool { return c.Has("freezer") }}
	dir, err := tree.DirIn(proc.ParseCgroups([]byte("3:memory:/x\n2:cpu,freezer:/y\n0::/z\n")))
	if dir != "/m/y" || err != nil {
		t.Errorf("%q, %v", dir, err)
	}
	if _, err := tree.DirIn(nil); err != unix.ENOENT {
		t.Errorf("no such hierarchy: %v", err)
	}
	if _, err := tree.Dir(os.Getpid()); err != nil && err != unix.ENOENT {
		t.Errorf("this process: %v", err)
	}
	if _, err := tree.Dir(1 << 22); err != unix.ESRCH {
		t.Errorf("no process: %v", err)
	}
}

func TestIDsOfAGroupThatIsNotThere(t *testing.T) {
	if _, err := IDs(t.TempDir(), "cgroup.procs"); err != unix.ENOENT {
		t.Error(err)
	}
}
