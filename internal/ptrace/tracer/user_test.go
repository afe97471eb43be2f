package tracer

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// userVariable tells a test binary that it was started to be another user.
const userVariable = "TRACER_TEST_USER"

// userTests are those that an unprivileged user must pass, too.
var userTests = []string{
	"TestAGroupFreezesAndThaws", "TestStormsAreWon", "TestNoSignalIsLostWhileFreezingAndThawing",
	"TestATracerThatDiesAtAnyCallHarmsNothing", "TestATracerKilledAtAnyMomentHarmsNothing",
	"TestAnExecOfAProgramWithPrivilegesKeepsThem", "TestAProgramWithPrivilegesIsABlocker",
	"TestATaskThatIsTracedAlreadyIsABlocker",
	"TestAPlaceThatOthersCouldWriteIsRefused", "TestAProcessOfAnotherUserCannotBeAdded",
}

// asUser runs one test as an unprivileged user.
func asUser(t *testing.T, name string, variables ...string) {
	dir, err := os.MkdirTemp("", "user") // t.TempDir is in a directory that is root's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run", "^"+name+"$")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir, userVariable+"=1", "FREEZER_TRIES="+strconv.Itoa(tries(10)))
	cmd.Env = append(cmd.Env, variables...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	for line := range bytes.Lines(out) {
		if s := string(line); strings.Contains(s, "_test.go:") || err != nil {
			t.Log(strings.TrimRight(s, "\n"))
		}
	}
	if err != nil {
		t.Error(err)
	}
	if bytes.Contains(out, []byte("--- SKIP: "+name)) {
		t.Skip("skipped there")
	}
}

func TestAsAnUnprivilegedUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user; these tests run as one themselves")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	privileged(t, dir, "sleep")
	privileged(t, dir, "id")
	for _, name := range userTests {
		t.Run(name, func(t *testing.T) { asUser(t, name, privilegedVariable+"="+dir) })
	}
}

// privilegedVariable is a directory with programs that run as root whoever
// starts them.
const privilegedVariable = "TRACER_TEST_PRIVILEGED"

func privileged(t testing.TB, dir, name string) {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(path, text, 0o755)
	}
	if err == nil {
		err = os.Chmod(path, 0o755|os.ModeSetuid)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unprivileged skips a test that root cannot make, and returns the directory with
// the programs.
func unprivileged(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(privilegedVariable)
	if os.Geteuid() == 0 || dir == "" {
		t.Skip("it is run by TestAsAnUnprivilegedUser")
	}
	return dir
}

func TestAnExecOfAProgramWithPrivilegesKeepsThem(t *testing.T) {
	dir := unprivileged(t)
	h := place(t)
	g := group(t, h, "t/a")
	cmd := exec.Command("sh", "-c", "while :; do "+dir+"/id -u; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, cmd)
	add(t, g, cmd.Process.Pid)
	var kept, lost atomic.Int64
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			if s.Text() == "0" {
				kept.Add(1)
			} else {
				lost.Add(1)
			}
		}
	}()
	for range 5 * tries(10) {
		freeze(t, g)
		pids, _ := g.Processes()
		for _, pid := range pids {
			if s := taskStates(pid); s != "t" && !(s == "D" && parked(pid)) {
				t.Errorf("process %d runs: it is in state %q", pid, s)
			}
		}
		thaw(t, g)
	}
	t.Logf("%d kept their privileges, %d lost them", kept.Load(), lost.Load())
	if lost.Load() > 0 {
		t.Error("privileges were lost")
	}
}

func TestAProgramWithPrivilegesIsABlocker(t *testing.T) {
	dir := unprivileged(t)
	h := place(t)
	for range tries(10) {
		g := group(t, h, "t/a")
		pid, tell := shell(t)
		add(t, g, pid)
		child := background(t, tell, dir+"/sleep 0.4 >/dev/null & echo $!")
		eventually(t, "it has its privileges", func() bool { return effective(child, "Uid") == 0 })
		if reason := blocked(t, g, child); !strings.Contains(reason, "privileges") {
			t.Errorf("it says: %s", reason)
		}
		if got := taskStates(pid); got != "t" {
			t.Errorf("its parent is in state %q", got)
		}
		eventually(t, "it has a record", func() bool { _, ok := h.recordOf(child); return ok })
		_ = unix.Kill(pid, unix.SIGKILL)
		eventually(t, "its parent is dead", func() bool { return !alive(pid) })
		if frozen, _ := g.Frozen(); frozen && alive(child) {
			t.Error("it was lost with its parent")
		}
		eventually(t, "the group is frozen, for it has ended", func() bool { ok, _ := g.Frozen(); return ok })
		thaw(t, g)
	}
}

func TestAProcessOfAnotherUserCannotBeAdded(t *testing.T) {
	unprivileged(t)
	h := place(t)
	g := group(t, h, "t/a")
	if err := h.MoveProcess(g.dir.Path(), 1); err != unix.EPERM {
		t.Errorf("got %v", err)
	}
	if err := h.MoveProcess(g.dir.Path(), 1<<22-1); err != unix.ESRCH {
		t.Errorf("a process that is not there: got %v", err)
	}
}
