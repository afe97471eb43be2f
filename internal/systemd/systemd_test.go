package systemd_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/systemd"
)

func TestTheUnitIsFoundWhereSystemdIsPID1AndManagesTheHierarchy(t *testing.T) {
	for _, c := range []struct {
		init string
		uid  int
		dir  string
	}{
		{"/sys/fs/cgroup/init.scope", 0, "/sys/fs/cgroup/system.slice/freezer.service"},
		{"/sys/fs/cgroup/unified/init.scope", 0, "/sys/fs/cgroup/unified/system.slice/freezer.service"}, // hybrid
		{"/sys/fs/cgroup/docker/1a2b/init.scope", 0, "/sys/fs/cgroup/docker/1a2b/system.slice/freezer.service"},
		{"/sys/fs/cgroup", 0, ""},               // another init, or a container without one
		{"/sys/fs/cgroup/freezer", 0, ""},       // cgroup1's, which systemd leaves alone
		{"/sys/fs/cgroup/init.scope", 4711, ""}, // no manager runs for this user
	} {
		u, ok := systemd.Find(c.init, c.uid)
		if ok != (c.dir != "") || ok && u.Dir != c.dir {
			t.Errorf("Find(%q, %d) = %q, %v", c.init, c.uid, u.Dir, ok)
		}
	}
}

func TestARealSystemdDelegatesAUnit(t *testing.T) {
	switch os.Getenv(partEnv) {
	case "root":
		asRoot(t)
	case "user":
		asUser(t)
	case "stranger":
		asStranger(t)
	default:
		log := boot(t)
		t.Log(log)
		if n := strings.Count(log, "\nPASS\n"); n != 3 || strings.Contains(log, "--- SKIP") {
			t.Errorf("%d of 3 parts passed", n)
		}
	}
}

const unitDir = "/sys/fs/cgroup/system.slice/freezer.service"

// asRoot is run on the machine by root.
func asRoot(t *testing.T) {
	f := open(t, unitDir+"/freezer")
	together(t, func() error {
		_, err := open(t, unitDir+"/freezer").CreateAll("sim/rank0")
		return err
	})
	if procs := read(t, unitDir+"/cgroup.procs"); procs != "" {
		t.Errorf("processes %q in the unit's own cgroup", procs)
	}
	g := frozenSleeper(t, f, "sim/rank0")

	systemctl(t, "daemon-reload")
	systemctl(t, "daemon-reexec")
	stillFrozen(t, g)
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}

	t.Log("the unit's own process ends; the groups' do not")
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	endItsProcess(t)
	freezertest.Eventually(t, "systemd notices", func() bool { return substate(t) == "exited" })
	stillFrozen(t, g)

	t.Log("stopping the unit kills what is in it")
	pids, _ := g.Processes()
	systemctl(t, "stop", "freezer.service")
	freezertest.Eventually(t, "the sleeper dies", func() bool { return !alive(pids[0]) })
	if exists(unitDir) {
		t.Error("the unit's cgroup is still there")
	}

	t.Log("it can be started again, also when it has lost its cgroup")
	freezertest.Eventually(t, "it starts again", func() bool { // systemd makes one wait between starts
		_, err := f.Create("again")
		return err == nil || errors.Is(err, freezer.ErrExist)
	})
	endItsProcess(t)
	freezertest.Eventually(t, "the empty cgroup goes", func() bool { return !exists(unitDir) })
	freezertest.Eventually(t, "it starts once more", func() bool {
		_, err := f.Create("more")
		return err == nil || errors.Is(err, freezer.ErrExist)
	})
	systemctl(t, "stop", "freezer.service")
}

const userUnitDir = "/sys/fs/cgroup/user.slice/user-65534.slice/user@65534.service/app.slice/freezer.service"

// asUser is run on the machine by a user in a login session.
func asUser(t *testing.T) {
	if text := read(t, "/proc/self/cgroup"); !strings.HasSuffix(text, "::/user.slice/user-65534.slice/session-1.scope\n") {
		t.Fatalf("not in a session: %s", text)
	}
	f := open(t, userUnitDir+"/freezer")
	create(t, f, "sim")
	g := frozenSleeper(t, f, "sim")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/65534")
	systemctl(t, "--user", "daemon-reload")
	systemctl(t, "--user", "daemon-reexec")
	stillFrozen(t, g)

	t.Log("a process that is moved into a frozen group freezes")
	if err := g.Add(freezertest.Sleeper(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pids, _ := g.Processes(); len(pids) != 2 {
		t.Errorf("%d processes, not 2", len(pids))
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}

	t.Log("others' processes are refused, and so is what does not exist")
	bus, err := strconv.Atoi(strings.TrimSpace(read(t, "/sys/fs/cgroup/system.slice/dbus.service/cgroup.procs")))
	if err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]error{1: freezer.ErrPermission, bus: freezer.ErrPermission, 1 << 21: freezer.ErrNoTask} {
		if err := g.Add(pid); !errors.Is(err, want) {
			t.Errorf("Add(%d) = %v", pid, err)
		} else {
			t.Log(err)
		}
	}

	t.Log("seen from within its own unit, the user's tree is the same")
	me := create(t, f, "me")
	if err := me.Add(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if again, err := freezer.Open(); err != nil || again.Root() != f.Root() {
		t.Errorf("%v, %v", again, err)
	}
}

// asStranger is run on the machine by a user for whom no manager runs.
func asStranger(t *testing.T) {
	f, err := freezer.Open(freezer.WithBackend(freezer.Cgroup2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.Create("sim"); !errors.Is(err, freezer.ErrPermission) {
		t.Errorf("Create: %v", err)
	}
	t.Log(err)
}

// open opens the usual tree, which does not make it.
func open(t *testing.T, root string) *freezer.Freezer {
	t.Helper()
	f, err := freezer.Open()
	if err != nil {
		t.Fatal(err)
	}
	if f.Root() != root {
		t.Fatalf("the tree is at %q", f.Root())
	}
	return f
}

// together calls do several times at once, the first to need the unit.
func together(t *testing.T, do func() error) {
	t.Helper()
	if exists(unitDir) {
		t.Fatal("opening the tree has started the unit")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := do(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func create(t *testing.T, f *freezer.Freezer, name string) *freezer.Group {
	t.Helper()
	g, err := f.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func frozenSleeper(t *testing.T, f *freezer.Freezer, name string) *freezer.Group {
	t.Helper()
	g, err := f.Group(name)
	if err == nil {
		err = g.Add(freezertest.Sleeper(t))
	}
	if err == nil {
		err = g.Freeze(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func stillFrozen(t *testing.T, g *freezer.Group) {
	t.Helper()
	s, err := g.State()
	pids, _ := g.Processes()
	if err != nil || s != freezer.Frozen || len(pids) != 1 {
		t.Errorf("state %v, processes %v, %v", s, pids, err)
	}
}

// endItsProcess ends the process of the unit, as a clumsy killall might.
func endItsProcess(t *testing.T) {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(unitDir, "init/cgroup.procs"))))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func substate(t *testing.T) string {
	out, err := exec.Command("systemctl", "show", "--value", "-p", "SubState", "freezer.service").Output()
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(out))
}

func systemctl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		t.Fatalf("systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// alive says whether a child of this process still runs.
func alive(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(text), ") Z ")
}
