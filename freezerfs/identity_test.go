package freezerfs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

func (t *tree) open(name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(t.path(name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (t *tree) rmdir(groups ...string) {
	t.Helper()
	for _, g := range groups {
		if err := syscall.Rmdir(t.path(g)); err != nil {
			t.Fatalf("rmdir %s: %v", g, err)
		}
	}
}

func (t *tree) stat(name string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Stat(t.path(name), &st); err != nil {
		t.Fatalf("stat %s: %v", name, err)
	}
	return st
}

func TestAGroupThatIsMadeAgainIsAnother(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		names := []string{"freezer.state", "tasks", "cgroup.procs", "notify_on_release"}
		before := map[string]*os.File{}
		for _, name := range names {
			before[name] = tr.open("a/" + name)
			if _, err := before[name].ReadAt(make([]byte, 8), 0); err != nil && err.Error() != "EOF" {
				t.Fatal(err)
			}
		}
		unread := tr.open("a/freezer.state")
		dir, err := unix.Open(tr.path("a"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(dir)
		old := tr.stat("a")
		tr.rmdir("a")
		for range 3 { // there is none, and then there is another
			for _, name := range names {
				if _, err := before[name].ReadAt(make([]byte, 8), 0); !errors.Is(err, syscall.ENODEV) {
					t.Errorf("read of %s of the group that was removed: %v, want ENODEV", name, err)
				}
			}
			if _, err := unread.ReadAt(make([]byte, 8), 0); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("first read: %v, want ENODEV", err)
			}
			if _, err := before["freezer.state"].Write([]byte("FROZEN")); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("write of FROZEN: %v, want ENODEV", err)
			}
			if _, err := before["tasks"].Write([]byte("0")); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("write to tasks: %v, want ENODEV", err)
			}
			if _, err := before["notify_on_release"].Write([]byte("1")); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("write of a flag: %v, want ENODEV", err)
			}
			if err := unix.Mkdirat(dir, "b", 0o755); err != unix.ENOENT {
				t.Errorf("mkdir in it: %v, want ENOENT", err)
			}
			if fd, err := unix.Openat(dir, "tasks", unix.O_RDONLY, 0); err != unix.ENOENT {
				unix.Close(fd)
				t.Errorf("open in it: %v, want ENOENT", err)
			}
			if !exists(tr.path("a")) {
				tr.mkdir("a")
			}
			tr.says("THAWED", "a/freezer.state")
			tr.says("0", "a/notify_on_release")
		}
		if again := tr.stat("a"); again.Ino == old.Ino {
			t.Error("both have the same inode number")
		}
		tr.put("FROZEN", "a/freezer.state")
		tr.says("FROZEN", "a/freezer.state")
	})
}

func TestMountsOfOneTreeAgreeAtOnce(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		one := mount(t, backend, freezerfs.Options{})
		two := one.again()
		pid := fmt.Sprint(freezertest.Sleeper(t))
		for i := range 50 {
			one, two := one, two
			if i%2 == 1 {
				one, two = two, one
			}
			if exists(two.path("a")) {
				t.Fatal("it is there before it is made")
			}
			one.mkdir("a", "a/b")
			if a, b := one.stat("a/b"), two.stat("a/b"); a.Ino != b.Ino || a.Nlink != b.Nlink {
				t.Fatalf("inode %d with %d links, and %d with %d", a.Ino, a.Nlink, b.Ino, b.Nlink)
			}
			if a, b := one.stat("a/tasks"), two.stat("a/tasks"); a.Ino != b.Ino || a.Ino == one.stat("a/cgroup.procs").Ino {
				t.Fatalf("inode numbers of tasks %d and %d", a.Ino, b.Ino)
			}
			open := two.open("a/freezer.state")
			one.put(pid, "a/tasks")
			two.says(pid, "a/tasks")
			one.put("FROZEN", "a/freezer.state")
			two.says("FROZEN", "a/freezer.state")
			two.says("1", "a/b/freezer.parent_freezing")
			buf := make([]byte, 10)
			if n, _ := open.ReadAt(buf, 0); string(buf[:n]) != "FROZEN\n" {
				t.Fatalf("an open file says %q", buf[:n])
			}
			two.put("THAWED", "a/freezer.state")
			one.says("THAWED", "a/freezer.state")
			for _, name := range []string{"a", "a/tasks", "a/notify_on_release"} {
				if err := os.Chmod(one.path(name), 0o700|os.FileMode(i)); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(one.path(name), 1000+i, 2000+i); err != nil {
					t.Fatal(err)
				}
				st := two.stat(name)
				if st.Mode&0o777 != 0o700|uint32(i) || st.Uid != uint32(1000+i) || st.Gid != uint32(2000+i) {
					t.Fatalf("%s is %o of %d:%d", name, st.Mode, st.Uid, st.Gid)
				}
			}
			one.put("1", "a/notify_on_release")
			two.says("1", "a/notify_on_release")
			one.put(pid, "tasks")
			two.says(pid, "tasks")
			one.rmdir("a/b")
			two.rmdir("a")
		}
	})
}

func TestWhatIsUnderANameIsAlwaysTheGroupOfThisMoment(t *testing.T) {
	ways := map[string]func(dir string) error{
		"stat":            func(dir string) error { _, err := os.Stat(dir); return err },
		"stat of a file":  func(dir string) error { _, err := os.Stat(dir + "/tasks"); return err },
		"read":            func(dir string) error { _, err := os.ReadFile(dir + "/freezer.state"); return err },
		"write":           func(dir string) error { return writeFile(dir+"/freezer.state", "THAWED") },
		"list":            func(dir string) error { _, err := os.ReadDir(dir); return err },
		"access":          func(dir string) error { return unix.Access(dir, unix.X_OK) },
		"chmod":           func(dir string) error { return os.Chmod(dir, 0o755) },
		"chmod of a file": func(dir string) error { return os.Chmod(dir+"/tasks", 0o644) },
		"chdir":           func(dir string) error { return exec.Command("env", "-C", dir, "true").Run() },
		"mkdir below": func(dir string) error {
			if err := os.Mkdir(dir+"/b", 0o755); err != nil {
				return err
			}
			return os.Remove(dir + "/b")
		},
	}
	each(t, func(t *testing.T, backend string) {
		one := mount(t, backend, freezerfs.Options{})
		two := one.again()
		for range 10 {
			for what, way := range ways {
				one.mkdir("a")
				for range 2 { // so that it remembers
					if err := way(two.path("a")); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
				}
				one.rmdir("a")
				if err := way(two.path("a")); !errors.Is(err, syscall.ENOENT) && what != "chdir" || err == nil {
					t.Fatalf("%s when it is gone: %v", what, err)
				}
				two.mkdir("a")
				one.rmdir("a")
				one.mkdir("a")
				if err := way(two.path("a")); err != nil {
					t.Fatalf("%s when there is another: %v", what, err)
				}
				one.rmdir("a")
				two.mkdir("a")
				if err := way(one.path("a")); err != nil {
					t.Fatalf("%s when the other has made it: %v", what, err)
				}
				one.rmdir("a")
			}
		}
	})
}

func TestKillingTheServerLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "a/b")
		pid := fmt.Sprint(freezertest.Sleeper(t))
		tr.put(pid, "a/b/tasks")
		tr.put("FROZEN", "a/freezer.state")
		tr.put("1", "a/notify_on_release")
		if err := os.Chown(tr.path("a/cgroup.clone_children"), 4711, 4712); err != nil {
			t.Fatal(err)
		}
		before := tr.stat("a/b")
		open := tr.open("a/tasks")
		if err := syscall.Kill(tr.server, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		freezertest.Eventually(t, "clients are told", func() bool {
			_, err := os.ReadFile(tr.path("a/tasks"))
			return errors.Is(err, syscall.ENOTCONN)
		})
		if _, err := open.ReadAt(make([]byte, 9), 0); !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("read of an open file: %v", err)
		}
		if g, err := tr.f.Group("a"); err != nil {
			t.Fatal(err)
		} else if s, err := g.State(); s != freezer.Frozen || err != nil {
			t.Errorf("the group is %v, %v", s, err)
		}
		tr.start() // at the same place
		tr.says("FROZEN", "a/freezer.state")
		tr.says("FROZEN", "a/b/freezer.state")
		tr.says(pid, "a/b/tasks")
		tr.says("1", "a/notify_on_release")
		if st := tr.stat("a/cgroup.clone_children"); st.Uid != 4711 || st.Gid != 4712 {
			t.Errorf("the file is %d:%d's", st.Uid, st.Gid)
		}
		if after := tr.stat("a/b"); after.Ino != before.Ino {
			t.Errorf("inode number was %d and is %d", before.Ino, after.Ino)
		}
	})
}

func TestUnmountingThawsNothing(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		tr.put("FROZEN", "a/freezer.state")
		tr.unmount()
		g, err := tr.f.Group("a")
		if err != nil {
			t.Fatal(err)
		}
		if s, err := g.State(); s != freezer.Frozen || err != nil {
			t.Errorf("the group is %v, %v", s, err)
		}
	})
}

func TestWhatOthersDoToTheTreeIsSeen(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		kernel := func(names ...string) string { return filepath.Join(append([]string{tr.f.Root()}, names...)...) }
		if err := os.MkdirAll(kernel("a", "b", "c"), 0o755); err != nil {
			t.Fatal(err)
		}
		tr.says("THAWED", "a/b/c/freezer.state")
		if backend == freezer.Cgroup1 {
			if err := os.Rename(kernel("a"), kernel("z")); err != nil {
				t.Fatal(err)
			}
			if exists(tr.path("a")) {
				t.Error("the old name is still there")
			}
			tr.put("FROZEN", "z/b/freezer.state")
			tr.says("FROZEN", "z/b/c/freezer.state")
			if err := os.Rename(kernel("z"), kernel("a")); err != nil {
				t.Fatal(err)
			}
		}
		for _, dir := range []string{"a/b/c", "a/b", "a"} {
			if err := syscall.Rmdir(kernel(dir)); err != nil {
				t.Fatal(err)
			}
			if exists(tr.path(dir)) {
				t.Errorf("%s is still there", dir)
			}
		}
		// The tree itself, empty, may be tidied away. It is made again when need be.
		if err := tr.f.Clean(); err != nil {
			t.Fatal(err)
		}
		tr.mkdir("a")
		tr.says("THAWED", "a/freezer.state")
	})
}

func TestNamesAndListingsStayRightWhileGroupsComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("stays", "comes")
		for i := range 30 {
			tr.mkdir(fmt.Sprintf("stays/%02d", i))
		}
		deadline := time.Now().Add(500 * time.Millisecond)
		var all sync.WaitGroup
		for w := range 3 {
			all.Go(func() {
				for i := 0; time.Now().Before(deadline); i++ {
					name := fmt.Sprintf("comes/%d-%d", w, i%7)
					tr.mkdir(name)
					if i%2 == 0 {
						tr.put("FROZEN", name+"/freezer.state")
					}
					tr.rmdir(name)
				}
			})
		}
		for range 3 {
			all.Go(func() {
				for time.Now().Before(deadline) {
					entries, err := os.ReadDir(tr.path("stays"))
					if err != nil || len(entries) != 30+len(groupFiles) {
						t.Errorf("%d entries, %v", len(entries), err)
						return
					}
					// Whatever becomes of the others, this is no reason to fail.
					entries, err = os.ReadDir(tr.path("comes"))
					if err != nil {
						t.Error(err)
						return
					}
					for _, e := range entries {
						_, err := os.ReadFile(tr.path("comes", e.Name(), "freezer.state"))
						if e.IsDir() && err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENODEV) {
							t.Error(err)
						}
					}
				}
			})
		}
		all.Wait()
	})
}

var (
	groupFiles = strings.Fields("cgroup.clone_children cgroup.procs freezer.parent_freezing freezer.self_freezing freezer.state notify_on_release tasks")
	rootFiles  = strings.Fields("cgroup.clone_children cgroup.procs cgroup.sane_behavior notify_on_release release_agent tasks")
)

func TestTheFilesAreThoseOfTheClassicalHierarchy(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "b", "a/deep")
		for dir, want := range map[string][]string{"": append(rootFiles, "a", "b"), "a": append(groupFiles, "deep"), "a/deep": groupFiles} {
			out, err := exec.Command("ls", "-A", tr.path(dir)).Output()
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Fields(string(out))
			seen := map[string]bool{}
			for _, name := range got {
				seen[name] = true
			}
			for _, name := range want {
				if !seen[name] {
					t.Errorf("%q has no %s", dir, name)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%q has %v, want %v", dir, got, want)
			}
		}
		tr.says("0", "cgroup.sane_behavior")
		tr.refuses("1", "cgroup.sane_behavior", syscall.EINVAL)
		for name, mode := range map[string]uint32{
			"tasks": 0o644, "a/tasks": 0o644, "a/freezer.state": 0o644, "a/freezer.self_freezing": 0o444,
			"a/freezer.parent_freezing": 0o444, "a/cgroup.clone_children": 0o644, "release_agent": 0o644, "cgroup.sane_behavior": 0o444,
		} {
			st := tr.stat(name)
			if st.Mode != unix.S_IFREG|mode || st.Size != 0 || st.Nlink != 1 || st.Uid != uint32(os.Geteuid()) {
				t.Errorf("%s: mode %o, size %d, links %d, user %d", name, st.Mode, st.Size, st.Nlink, st.Uid)
			}
		}
	})
}
