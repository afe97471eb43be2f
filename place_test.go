package freezer_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

const inContainerEnv = "FREEZER_TEST_IN_CONTAINER"

// A container has a cgroup namespace of its own: its cgroup is the top of all
// that it sees, and PID 1 may be outside of it.
func TestInAContainerTheTreeIsAtTheTop(t *testing.T) {
	if os.Getenv(inContainerEnv) != "" {
		inContainer(t)
		return
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("no unshare here")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make a container here")
	}
	f := freezertest.Tree(t, freezer.Cgroup2)
	g, err := f.Create("container")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(g.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), unshare, "--cgroup", "--mount", "--", self, "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inContainerEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nPASS\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

func inContainer(t *testing.T) {
	const top = "/sys/fs/cgroup"
	_ = unix.Unmount(top, unix.MNT_DETACH) // with all below it
	if err := unix.Mount("cgroup2", top, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	f, err := freezer.Open()
	if err != nil {
		t.Fatal(err)
	}
	if f.Root() != top+"/freezer" {
		t.Errorf("the tree is at %s", f.Root())
	}
	g, err := f.Create("sim")
	if err == nil {
		err = g.Add(freezertest.Sleeper(t))
	}
	if err == nil {
		err = g.Freeze(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	g.Close()

	// As most containers have it.
	if err := unix.Mount("", top, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	f, err = freezer.Open(freezer.WithBackend(freezer.Cgroup2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Create("other"); !errors.Is(err, freezer.ErrPermission) || !strings.Contains(err.Error(), "mounted read-only") {
		t.Errorf("Create: %v", err)
	}
}
