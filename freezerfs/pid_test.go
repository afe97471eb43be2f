package freezerfs_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

// inside runs a shell script as PID 1 of a PID namespace of its own, and returns
// what it wrote.
func (t *tree) inside(script string, env ...string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(append(os.Environ(), "m="+t.dir, "LC_ALL=C"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func TestPIDsAreInTheCallersNamespaceBothWays(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "b")
		outside := fmt.Sprint(freezertest.Sleeper(t))
		tr.put(outside, "a/tasks")
		for _, c := range []struct{ what, script, want string }{
			{"its own number is 1", `echo 1 > $m/b/tasks; read pid < $m/b/tasks; echo $pid`, "1"},
			{"0 is itself", `echo 0 > $m/b/cgroup.procs; read pid < $m/b/tasks; echo $pid`, "1"},
			{"what it starts has its numbers", `sleep 9 & echo $! > $m/b/tasks; read pid < $m/b/tasks; test $pid = $! && echo $pid; kill -9 $!`, "2"},
			{"it does not see who is outside", `cat $m/a/tasks $m/a/cgroup.procs; echo end`, "end"},
			{"nor can it move him", `echo ` + outside + ` | tee $m/b/tasks 2>&1 >/dev/null | grep -o "No such process"`, "No such process"},
			{"nor whom there is not", `echo 77 | tee $m/b/tasks 2>&1 >/dev/null | grep -o "No such process"`, "No such process"},
			{"both are listed in order", `sleep 9 & sleep 9 & echo 3 > $m/b/tasks; echo 2 > $m/b/tasks; echo $(cat $m/b/tasks); kill -9 2 3`, "2 3"},
			{"it can freeze another", `sleep 9 & echo $! > $m/b/tasks; echo FROZEN > $m/b/freezer.state; cat $m/b/freezer.state; echo THAWED > $m/b/freezer.state; kill -9 $!`, "FROZEN"},
			{"what is deeper is 1 again", `unshare -p -f sh -c 'echo 1 > $m/b/tasks; read pid < $m/b/tasks; echo $pid'`, "1"},
			{"it sees what is deeper", `unshare -p -f sh -c 'echo 1 > $m/b/tasks; exec sleep 9' & until read pid < $m/b/tasks; do :; done; echo $pid; kill -9 $pid; wait`, "3"},
			{"it moves what is deeper", `unshare -p -f sleep 9 & child=$(($! + 1)); until echo $child > $m/b/tasks; do :; done; echo $(cat $m/b/tasks) is $child; kill -9 $child; wait`, "3 is 3"},
		} {
			if got := tr.inside(c.script); strings.TrimSpace(got) != c.want {
				t.Errorf("%s: %q, want %q", c.what, got, c.want)
			}
			freezertest.Eventually(t, "b is empty", func() bool { return tr.read("b/tasks") == "" })
		}
		tr.says(outside, "a/tasks")
	})
}
