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

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestOnlyGroupsCanBeMadeAndUnmade(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "b", "a/c")
		for what, errs := range map[string][2]error{
			"create":              {func() error { _, err := os.Create(tr.path("a/new")); return err }(), syscall.EACCES},
			"unlink":              {os.Remove(tr.path("a/tasks")), syscall.EPERM},
			"symlink":             {os.Symlink("x", tr.path("a/link")), syscall.EPERM},
			"link":                {os.Link(tr.path("a/tasks"), tr.path("a/link")), syscall.EPERM},
			"mkfifo":              {syscall.Mkfifo(tr.path("a/fifo"), 0o600), syscall.EPERM},
			"rename":              {os.Rename(tr.path("b"), tr.path("d")), syscall.EPERM},
			"rename elsewhere":    {os.Rename(tr.path("b"), tr.path("a/b")), syscall.EPERM},
			"rename of a file":    {os.Rename(tr.path("a/tasks"), tr.path("a/jobs")), syscall.EPERM},
			"rmdir of a file":     {syscall.Rmdir(tr.path("a/tasks")), syscall.ENOTDIR},
			"rmdir with children": {syscall.Rmdir(tr.path("a")), syscall.EBUSY},
			"rmdir of nothing":    {syscall.Rmdir(tr.path("z")), syscall.ENOENT},
			"mkdir twice":         {os.Mkdir(tr.path("a"), 0o755), syscall.EEXIST},
			"mkdir of a file":     {os.Mkdir(tr.path("a/tasks"), 0o755), syscall.EEXIST},
			"mkdir in nothing":    {os.Mkdir(tr.path("z/a"), 0o755), syscall.ENOENT},
			"mkdir in a file":     {os.Mkdir(tr.path("a/tasks/b"), 0o755), syscall.ENOTDIR},
			"mkdir with newline":  {os.Mkdir(tr.path("x\ny"), 0o755), syscall.EINVAL},
			"mkdir long":          {os.Mkdir(tr.path(strings.Repeat("x", 256)), 0o755), syscall.ENAMETOOLONG},
			"mkdir like a file":   {os.Mkdir(tr.path("cgroup.mine"), 0o755), syscall.EINVAL},
			"mkdir hidden":        {os.Mkdir(tr.path(".freezer-mine"), 0o755), syscall.EINVAL},
			"open of a directory": {writeFile(tr.path("a"), "FROZEN"), syscall.EISDIR},
			"xattr":               {unix.Setxattr(tr.path("a"), "user.x", []byte("y"), 0), syscall.EOPNOTSUPP},
		} {
			if !errors.Is(errs[0], errs[1]) {
				t.Errorf("%s: %v, want %v", what, errs[0], errs[1])
			}
		}
		if _, err := os.ReadFile(tr.path("freezer.state")); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("the root's state: %v", err)
		}
		for _, hidden := range []string{"cgroup.events", "cgroup.freeze", ".freezer-warm"} {
			if exists(tr.path("a", hidden)) || exists(tr.path(hidden)) {
				t.Errorf("%s can be seen", hidden)
			}
		}
	})
}

func TestToolsFindTheirWay(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "a/b", "c")
		for i := range 300 { // more than one request's worth
			tr.mkdir(fmt.Sprintf("c/a-rather-long-name-so-that-a-listing-has-several-pieces-%03d", i))
		}
		for script, want := range map[string]string{
			`find $m -type d | wc -l`:                              "304",
			`find $m -name tasks | wc -l`:                          "304",
			`ls $m/c | wc -l`:                                      fmt.Sprint(300 + len(groupFiles)),
			`ls -lR $m > /dev/null`:                                "",
			`cat $m/a/freezer.*`:                                   "0\n0\nTHAWED",
			`grep -rl THAWED $m/a | wc -l`:                         "2",
			`tar -C $m -cf - . | tar tf - | grep -c freezer.state`: "303",
			`cd $m/a/b && pwd -P`:                                  tr.path("a/b"),
			`stat -f -c %b-%l $m`:                                  "0-255",
			`flock -n $m/a -c 'flock -n $m/a true || flock -n $m/c echo locked'`:                                "locked",
			`exec 3< $m/a; flock -x 3; flock -n $m/a echo not locked; exec 3<&-; flock -n $m/a echo locked now`: "locked now",
		} {
			cmd := exec.Command("sh", "-c", script)
			cmd.Env = append(os.Environ(), "m="+tr.dir, "LC_ALL=C")
			out, err := cmd.CombinedOutput()
			if got := strings.TrimSpace(string(out)); got != want {
				t.Errorf("%s: %q, %v, want %q", script, got, err, want)
			}
		}
	})
}

func TestManyClientsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		var all sync.WaitGroup
		for i := range 12 {
			name := fmt.Sprint("g", i)
			pid := fmt.Sprint(freezertest.Sleeper(t))
			all.Go(func() {
				for range 10 {
					for _, err := range []error{
						os.Mkdir(tr.path(name), 0o755), tr.write(pid, name+"/tasks"),
						system{tr}.Freeze(name), tr.write("THAWED", name+"/freezer.state"),
						tr.write(pid, "tasks"), syscall.Rmdir(tr.path(name)),
					} {
						if err != nil {
							t.Error(err)
						}
					}
					if _, err := (system{tr}).List(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	})
}

func TestAListingStaysTheSameUntilItIsRewound(t *testing.T) {
	tr := mount(t, backends[0], freezerfs.Options{})
	tr.mkdir("a")
	d, err := os.Open(tr.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	before, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	tr.mkdir("b")
	if more, _ := d.Readdirnames(-1); len(more) > 0 {
		t.Errorf("more at the end: %v", more)
	}
	if _, err := d.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	after, err := d.Readdirnames(-1)
	if err != nil || len(after) != len(before)+1 {
		t.Errorf("%d names before, %d after, %v", len(before), len(after), err)
	}
}

func TestAReadOnlyMountChangesNothing(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		one := mount(t, backend, freezerfs.Options{})
		one.mkdir("a")
		two := *one
		two.order.Options.Flags = unix.MS_RDONLY
		tr := two.again()
		tr.says("THAWED", "a/freezer.state")
		tr.refuses("FROZEN", "a/freezer.state", syscall.EROFS)
		if err := os.Mkdir(tr.path("b"), 0o755); !errors.Is(err, syscall.EROFS) {
			t.Errorf("mkdir: %v", err)
		}
	})
}

func TestWhereNothingCanBeMounted(t *testing.T) {
	needRoot(t)
	tr := mount(t, backends[0], freezerfs.Options{})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]error{
		tr.dir: syscall.EBUSY, file: syscall.ENOTDIR, filepath.Join(t.TempDir(), "none"): syscall.ENOENT,
	} {
		if s, err := freezerfs.Mount(tr.f, dir, freezerfs.Options{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", dir, err, want)
			if err == nil {
				_ = s.Detach()
			}
		}
	}
	tr.mkdir("a")
	tr.says("THAWED", "a/freezer.state")
	for _, dir := range []string{"/", t.TempDir(), tr.path("a"), "/proc"} {
		if err := freezerfs.Unmount(dir, false); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("unmount %s: %v, want EINVAL", dir, err)
		}
	}
	inUse := tr.open("a/tasks")
	if err := freezerfs.Unmount(tr.dir, false); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("unmount while it is in use: %v", err)
	}
	inUse.Close()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(tr.dir, link); err != nil {
		t.Fatal(err)
	}
	if err := freezerfs.Unmount(link, false); err != nil {
		t.Errorf("unmount: %v", err)
	}
	if exists(tr.path("tasks")) {
		t.Error("it is still mounted")
	}
}
