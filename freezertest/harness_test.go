package freezertest_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestMain(m *testing.M) { freezertest.Main(m) }

func TestTreeOpensOnEachBackend(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			g, err := f.Create("a")
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Add(freezertest.Sleeper(t)); err != nil {
				t.Fatal(err)
			}
			if err := g.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

const killMeEnv = "FREEZERTEST_KILL_ME"

// leaveBehind makes a frozen group and a process in it, says so, and waits to be
// killed: on cgroup2 in a fork into the group.
func leaveBehind(t *testing.T, backend string) {
	f := freezertest.Tree(t, backend)
	g, err := f.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	pid := freezertest.Sleeper(t)
	if err := g.Add(pid); err != nil {
		t.Fatal(err)
	}
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("left %s %d\n", f.Root(), pid)
	if dir, err := os.Open(g.Dir()); err == nil && backend == freezer.Cgroup2 {
		cmd := exec.Command("true")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		_ = cmd.Run()
	}
	select {}
}

func TestWhatAKilledTestLeavesIsCleanedUp(t *testing.T) {
	if backend := os.Getenv(killMeEnv); backend != "" {
		leaveBehind(t, backend)
	}
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			freezertest.Tree(t, backend) // skips where there is none
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self, "-test.run=^TestWhatAKilledTestLeavesIsCleanedUp$")
			cmd.Env = append(os.Environ(), killMeEnv+"="+backend)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			freezertest.Run(t, cmd)
			var root string
			var pid int
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if n, _ := fmt.Sscanf(lines.Text(), "left %s %d", &root, &pid); n == 2 {
					break
				}
			}
			if !strings.HasPrefix(root, "/") {
				t.Fatal("it failed")
			}
			if backend == freezer.Cgroup2 {
				freezertest.Eventually(t, "it forks", func() bool {
					procs, err := os.ReadFile(root + "/a/cgroup.procs")
					return err == nil && strings.Count(string(procs), "\n") == 2
				})
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			freezertest.Eventually(t, "tree and process are gone", func() bool {
				return unix.Access(root, unix.F_OK) == unix.ENOENT && unix.Kill(pid, 0) == unix.ESRCH
			})
		})
	}
}
