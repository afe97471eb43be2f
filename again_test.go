package freezer_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
)

// eachCgroup is eachBackend for what the kernel's own files show.
func eachCgroup(t *testing.T, test func(t *testing.T, g *freezer.Group)) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		if g.Backend() == freezer.Ptrace {
			t.Skip("it is about cgroups")
		}
		test(t, g)
	})
}

const againEnv = "FREEZER_TEST_AGAIN"

// again is the command that runs the calling test once more in a process of its
// own, where elsewhere then returns the tree of g. It goes by way of the command
// in front, if there is one.
func again(t *testing.T, g *freezer.Group, front ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	name, _, _ := strings.Cut(t.Name(), "/")
	argv := append(front, self, "-test.v", "-test.run=^"+name+"$")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), againEnv+"="+g.Backend()+" "+strings.TrimSuffix(g.Dir(), "/"+g.Name()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// elsewhere returns the tree, and its group g, that again was told; f is nil in
// the process that was not started by it.
func elsewhere(t *testing.T) (f *freezer.Freezer, g *freezer.Group) {
	t.Helper()
	arg, ok := os.LookupEnv(againEnv)
	if !ok {
		return nil, nil
	}
	backend, root, _ := strings.Cut(arg, " ")
	f, err := freezer.Open(freezer.WithBackend(backend), freezer.WithRoot(root))
	must(t, err)
	g, err = f.Group("g")
	must(t, err)
	return f, g
}

// passes runs a command made by again, which must pass.
func passes(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	passed(t, string(out), err)
}

func passed(t *testing.T, out string, err error) {
	t.Helper()
	if err != nil || !strings.Contains(out, "\nPASS\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, why, skipped := strings.Cut(out, "--- SKIP"); skipped {
		t.Skip(why)
	}
}
