package main

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
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

func TestMain(m *testing.M) { freezertest.Main(tidy{m}) }

// tidy removes the program after the tests.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	defer func() { _ = os.RemoveAll(programDir) }()
	return t.m.Run()
}

var programDir string

// program builds the real thing, where all users can reach it.
var program = sync.OnceValues(func() (path string, err error) {
	if programDir, err = os.MkdirTemp("", "freezerd-program-"); err != nil {
		return "", err
	}
	path = filepath.Join(programDir, "freezerd")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, errors.Join(os.Symlink("freezerd", filepath.Join(programDir, helperName)), os.Chmod(programDir, 0o755))
})

// A place is a tree of groups and a directory for a mount.
type place struct {
	testing.TB
	f   *freezer.Freezer
	dir string
	bin string
}

// newPlace skips the test where nothing can be mounted.
func newPlace(t testing.TB) *place {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Skip("the program cannot be built here: ", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can mount, but for fusermount")
	}
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil {
		t.Skip("no FUSE here: /dev/fuse: ", err)
	}
	return (&place{TB: t, f: freezertest.Tree(t, freezer.Cgroup2), bin: bin}).elsewhere()
}

// elsewhere is the same tree with another directory.
func (p *place) elsewhere() *place {
	p.Helper()
	dir, err := os.MkdirTemp("", "freezerd-test-")
	if err != nil {
		p.Fatal(err)
	}
	forget := freezertest.OnUnmount(dir)
	p.Cleanup(func() {
		_ = syscall.Unmount(dir, syscall.MNT_FORCE|syscall.MNT_DETACH) // it may not be mounted any more
		_ = os.Remove(dir)
		forget()
	})
	another := *p
	another.dir = dir
	return &another
}

// command is the program, or its other name, with these arguments and the tree.
func (p *place) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(filepath.Dir(p.bin), name), args...)
	cmd.Env = append(os.Environ(), "FREEZER_ROOT="+p.f.Root(), "FREEZER_BACKEND="+p.f.Backend())
	return cmd
}

// runs fails the test unless the program ends with this status; it returns what
// it wrote.
func (p *place) runs(status int, name string, args ...string) string {
	p.Helper()
	out, err := p.command(name, args...).CombinedOutput()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		p.Fatal(err)
	}
	if got != status {
		p.Fatalf("%s %v: status %d, want %d: %s", name, args, got, status, out)
	}
	return string(out)
}

func (p *place) mounted() bool {
	_, err := os.Stat(filepath.Join(p.dir, "tasks"))
	return err == nil
}

// server finds the one that serves the place.
func (p *place) server() int {
	p.Helper()
	for _, pid := range proc.All() {
		text, _ := os.ReadFile(proc.Path(pid, "cmdline"))
		if words := strings.Split(string(text), "\x00"); len(words) > 2 && words[1] == "mount" && words[len(words)-2] == p.dir {
			return pid
		}
	}
	p.Fatal("there is no server")
	return 0
}

func (p *place) goes(pid int) {
	p.Helper()
	freezertest.Eventually(p, "the server ends", func() bool {
		s, err := proc.ReadStat(pid)
		return err != nil || s.State == 'Z'
	})
}

// write is one write(2) to a file of the mount.
func (p *place) write(text, name string) error {
	return os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0)
}

func TestADetachedServerIsReadyAndByItself(t *testing.T) {
	p := newPlace(t)
	if out := p.runs(0, "freezerd", "mount", "--detach", p.dir); out != "" {
		t.Errorf("it says %q", out)
	}
	if !p.mounted() {
		t.Fatal("it is not mounted")
	}
	server := p.server()
	if comm, _ := os.ReadFile(proc.Path(server, "comm")); string(comm) != "freezerd\n" {
		t.Errorf("the server is called %q", comm)
	}
	if cwd, _ := os.Readlink(proc.Path(server, "cwd")); cwd != "/" {
		t.Errorf("its working directory is %s", cwd)
	}
	for fd := range 3 {
		if to, _ := os.Readlink(proc.Path(server, fmt.Sprint("fd/", fd))); to != os.DevNull {
			t.Errorf("descriptor %d is %s", fd, to)
		}
	}
	if out := p.runs(failed, "freezerd", "mount", p.dir); !strings.Contains(out, "already") {
		t.Errorf("a second mount at the same place: %s", out)
	}
	p.runs(0, "freezerd", "umount", p.dir)
	p.goes(server)
	if out := p.runs(failed, "freezerd", "umount", p.dir); !strings.Contains(out, "shows no tree of groups") {
		t.Errorf("unmounted twice: %s", out)
	}
}

func TestMountCallsTheHelper(t *testing.T) {
	p := newPlace(t)
	for _, args := range [][]string{
		{"freezer", p.dir, "-o", "rw,noexec,nosuid,defaults,user,_netdev,x-systemd.automount,comment=x,grace=1s,nowait,freezer"},
		{"-n", "-o", "noauto", "freezer", p.dir, "-v", "-t", "freezer"},
		{"sim", p.dir, "-s", "-o", "unheard-of,root=" + p.f.Root() + ",backend=cgroup2"},
	} {
		p.runs(0, helperName, args...)
		if !p.mounted() {
			t.Fatalf("%v: it is not mounted", args)
		}
		mounts, _ := os.ReadFile("/proc/self/mounts")
		if source := args[0]; !strings.HasPrefix(source, "-") && !strings.Contains(string(mounts), "\n"+source+" "+p.dir+" fuse.freezer ") {
			t.Errorf("%v: not of the source %s", args, source)
		}
		server := p.server()
		if err := unix.Unmount(p.dir, 0); err != nil { // as umount(8) does
			t.Fatal(err)
		}
		p.goes(server)
	}
	p.runs(0, helperName, "freezer", p.dir, "-f")
	if p.mounted() {
		t.Error("a faked mount is a mount")
	}
	for _, args := range [][]string{{}, {"freezer"}, {"freezer", p.dir, "-o", "unheard-of"}, {"freezer", p.dir, "-o", "grace=soon"}, {"freezer", p.dir, "-o", "backend=x"}} {
		p.runs(helperUsage, helperName, args...)
	}
	p.runs(helperFailed, helperName, "freezer", filepath.Join(p.dir, "none"))
}

func TestMount8AndFstab(t *testing.T) {
	p := newPlace(t)
	// In a mount namespace of its own the helper can be installed.
	script := `set -e
mount --make-rprivate / && mkdir $d/up && mount -t tmpfs none $d/up && mkdir $d/up/1 $d/up/2
mount -t overlay none -o lowerdir=$(readlink -f /sbin),upperdir=$d/up/1,workdir=$d/up/2 $(readlink -f /sbin) || exit 99
ln -sf $bin /sbin/mount.freezer
echo "freezer $m freezer nowait,noauto 0 0" > $d/fstab
mount -t freezer freezer $m
test -e $m/release_agent
umount $m
mount --fstab $d/fstab $m
test -e $m/release_agent
umount $m
! test -e $m/release_agent`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(p.command("").Env, "d="+t.TempDir(), "m="+p.dir, "bin="+p.bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 99 {
		t.Skipf("no overlay to install the helper in: %s", out)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestWrongCommandLines(t *testing.T) {
	p := newPlace(t)
	for _, args := range [][]string{
		{}, {"mount"}, {"mount", p.dir, "-o", "unheard-of"}, {"mount", p.dir, "-o", "grace=-1s"}, {"mount", p.dir, "--backend", "x"}, {"umount"}, {"unheard-of"},
	} {
		p.runs(usage, "freezerd", args...)
	}
	for dir, want := range map[string]string{"/dev/null": "not a directory", filepath.Join(p.dir, "none"): "no such file"} {
		for _, flags := range [][]string{nil, {"--detach"}} {
			if out := p.runs(failed, "freezerd", append(append([]string{"mount"}, flags...), dir)...); !strings.Contains(out, want) {
				t.Errorf("mount %v %s: %s", flags, dir, out)
			}
		}
	}
	if out := p.runs(unavailable, "freezerd", "mount", "--detach", "--root", "/none/of/these", p.dir); !strings.Contains(out, "/none/of/these") {
		t.Errorf("a root that cannot be: %s", out)
	}
}

func TestSignalsUnmount(t *testing.T) {
	p := newPlace(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		for _, busy := range []bool{false, true} {
			cmd := p.command("freezerd", "mount", p.dir)
			freezertest.Run(t, cmd)
			freezertest.Eventually(t, "it is mounted", p.mounted)
			if busy {
				user, err := os.Open(filepath.Join(p.dir, "tasks"))
				if err != nil {
					t.Fatal(err)
				}
				defer user.Close()
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			p.goes(cmd.Process.Pid)
			if mounts, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(mounts), " "+p.dir+" ") {
				t.Fatalf("%v, busy %v: it is still mounted", sig, busy)
			}
		}
	}
}

func TestADeadMountIsReplaced(t *testing.T) {
	p := newPlace(t)
	for range 2 {
		p.runs(0, "freezerd", "mount", "--detach", p.dir)
		if err := syscall.Kill(p.server(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		freezertest.Eventually(t, "the mount is dead", func() bool { return !p.mounted() })
	}
	p.runs(0, "freezerd", "mount", "--detach", p.dir)
	server := p.server()
	p.runs(0, "freezerd", "umount", "--lazy", p.dir)
	p.goes(server)
}

func TestTheServerIsFrozenByNobody(t *testing.T) {
	p := newPlace(t)
	p.runs(0, "freezerd", "mount", "--detach", p.dir)
	another := p.elsewhere()
	another.runs(0, "freezerd", "mount", "--detach", another.dir)
	server := p.server()
	g, err := p.f.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	// Should it be frozen all the same, this very test would hang.
	rescue := time.AfterFunc(20*time.Second, func() { _ = g.Thaw(freezer.AllHolds()) })
	defer rescue.Stop()
	if err := g.Add(server); err != nil {
		t.Fatal(err)
	}
	for by, err := range map[string]error{
		"the package, with force": g.Freeze(t.Context(), freezer.Force()),
		"its own mount":           p.write("FROZEN", "a/freezer.state"),
		"another mount":           another.write("FROZEN", "a/freezer.state"),
	} {
		if !errors.Is(err, syscall.EDEADLK) {
			t.Errorf("by %s: %v, want EDEADLK", by, err)
		}
	}
	if err := another.write(fmt.Sprint(server), "cgroup.procs"); err != nil {
		t.Error(err)
	}
	if err := g.Freeze(t.Context()); err != nil {
		t.Error(err)
	}
	for _, mount := range []*place{p, another} {
		if err := mount.write(fmt.Sprint(server), "a/cgroup.procs"); !errors.Is(err, syscall.EDEADLK) {
			t.Errorf("moved into a frozen group: %v, want EDEADLK", err)
		}
	}
	if !p.mounted() {
		t.Error("the server does not serve")
	}
}

func TestAUserMountsHisOwnTree(t *testing.T) {
	p := newPlace(t)
	const user = "65534" // nobody: fusermount wants one with a name
	// Where /dev/fuse is for root only, as it need not be, another one takes its place.
	script := `set -e
mount --make-rprivate / && mknod $d/fuse c 10 229 && chmod 666 $d/fuse && mount --bind $d/fuse /dev/fuse || exit 99
test -u $(command -v fusermount3) && getent passwd $user >/dev/null || exit 99
mkdir $root/probe
chown $user $m $root $root/cgroup.procs $root/cgroup.threads
setpriv --reuid $user --regid $user --clear-groups sh -ec '
freezerd mount --detach $m
cd $m
mkdir a
echo FROZEN > a/freezer.state; cat a/freezer.state
echo THAWED > a/freezer.state; cat a/freezer.state
echo 1 > a/notify_on_release; cat a/notify_on_release
rmdir a
cd /
freezerd mount $m && exit 1
freezerd umount $m
! test -e $m/tasks
freezerd umount $m && exit 1
true'
rmdir $root/probe`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(p.command("").Env, "d="+t.TempDir(), "m="+p.dir, "root="+p.f.Root(), "user="+user, "PATH="+programDir+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 99 {
		t.Skipf("users cannot mount here: %s", out)
	}
	if err != nil || !strings.HasPrefix(string(out), "FROZEN\nTHAWED\n1\n") {
		t.Errorf("%v: %s", err, out)
	}
}
