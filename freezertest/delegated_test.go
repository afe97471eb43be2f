package freezertest_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// nobody is the user who gets a group.
const nobody = 65534

// delegatedEnv tells which group was delegated: BACKEND DIR.
const delegatedEnv = "FREEZERTEST_DELEGATED"

// A user to whom root gave a group can do there all that the suite asks for.
func TestSuiteAsAUserToWhomAGroupWasDelegated(t *testing.T) {
	if backend, dir, ok := strings.Cut(os.Getenv(delegatedEnv), " "); ok {
		f, err := freezer.Open(freezer.WithBackend(backend))
		if err != nil {
			t.Fatal(err)
		}
		if f.Root() != dir+"/freezer" {
			t.Errorf("the tree is at %s, want it in %s", f.Root(), dir)
		}
		freezertest.Suite(t, freezertest.Kernel(backend))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a group to a user")
	}
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			g, err := f.Create("delegated")
			if err != nil {
				t.Fatal(err)
			}
			give(t, g.Dir())
			cmd := exec.Command("sh", "-c", `read go; exec "$@"`, "sh", ownCopy(t),
				"-test.v", "-test.run=^TestSuiteAsAUserToWhomAGroupWasDelegated$")
			cmd.Dir = "/"
			cmd.Env = append(os.Environ(), "HOME=/tmp", delegatedEnv+"="+backend+" "+g.Dir())
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
				Pdeathsig:  syscall.SIGKILL,
			}
			start, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			freezertest.Run(t, cmd)
			if err := g.Add(cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			start.Close()
			if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "\nPASS\n") {
				t.Errorf("%v\n%s", err, out.String())
			}
			t.Logf("%d cases passed, %d were skipped", strings.Count(out.String(), "    --- PASS"), strings.Count(out.String(), "    --- SKIP"))
		})
	}
}

// give hands a group over, as cgroups(7) and systemd do it.
func give(t *testing.T, dir string) {
	t.Helper()
	for _, file := range []string{".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"} {
		if err := os.Chown(filepath.Join(dir, file), nobody, nobody); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}

// ownCopy copies this test binary to where everybody can run it.
func ownCopy(t *testing.T) string {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "delegated.test")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, self); err != nil {
		t.Fatal(err)
	}
	return path
}
