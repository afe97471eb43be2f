package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestMain(m *testing.M) {
	// What whoever started the tests has open is no business of the jobs in them: a
	// checkpoint would find it.
	_ = unix.CloseRange(3, 1<<20, unix.CLOSE_RANGE_CLOEXEC)
	freezertest.Main(tidy{m})
}

// tidy removes the program after the tests.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	defer func() { _ = os.RemoveAll(programDir) }()
	return t.m.Run()
}

var programDir string

// program builds the real thing: a test binary in its place would start ten
// times slower, with other files open. The server is in a directory of its own.
var program = sync.OnceValues(func() (path string, err error) {
	if programDir, err = os.MkdirTemp("", "freezer-program-"); err != nil {
		return "", err
	}
	for dir, source := range map[string]string{"client/": ".", "server/": "../freezerd"} {
		dir = filepath.Join(programDir, dir) + "/"
		cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w: %s", err, out)
		}
	}
	return filepath.Join(programDir, "client", "freezer"), nil
})

// built returns the path of the program, or skips the test.
func built(tb testing.TB) string {
	tb.Helper()
	path, err := program()
	if err != nil {
		tb.Skip("the program cannot be built here: ", err)
	}
	return path
}

// workdirRoot is a directory for the scripts. A keeper may make a file there while
// it is removed, once: it ends when its directory is gone.
func workdirRoot(t *testing.T) string {
	dir, err := os.MkdirTemp("", "freezer-scripts-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		freezertest.Eventually(t, dir+" is removed", func() bool { return os.RemoveAll(dir) == nil })
	})
	return dir
}

// Each script is run on each backend, in a tree of its own.
func TestScripts(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/script",
				WorkdirRoot:         workdirRoot(t),
				RequireExplicitExec: true,
				Cmds:                commandsOfScripts,
				Condition:           func(cond string) (bool, error) { return cond == backend, nil },
				Setup: func(env *testscript.Env) error {
					tb := env.T().(testing.TB)
					setup(env)
					f := freezertest.Tree(tb, backend)
					env.Setenv("FREEZER_ROOT", f.Root())
					env.Setenv("FREEZER_BACKEND", backend)
					return nil
				},
			})
		})
	}
}

// These scripts need no freezer.
func TestScriptsAnywhere(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/anywhere",
		WorkdirRoot:         workdirRoot(t),
		RequireExplicitExec: true,
		Cmds:                commandsOfScripts,
		Setup: func(env *testscript.Env) error {
			setup(env)
			return nil
		},
	})
}

func setup(env *testscript.Env) {
	tb := env.T().(testing.TB)
	env.Values[tbKey{}] = tb
	bin := filepath.Dir(built(tb))
	env.Setenv("BIN", bin)
	env.Setenv("FREEZER_RUNTIME_DIR", filepath.Join(env.WorkDir, "run")) // keepers end when it goes
	env.Setenv("PATH", bin+":"+filepath.Join(programDir, "server")+":"+env.Getenv("PATH"))
}

type tbKey struct{}

// commandsOfScripts are what scripts can do besides what testscript has.
var commandsOfScripts = map[string]func(*testscript.TestScript, bool, []string){
	"sleeper": sleeper,
	"family":  family,
	"blocker": blocker,
	"status":  status,
	"until":   until,
	"alive":   alive,
	"needs":   needs,
	"mnt":     mountpoint,
}

func tbOf(ts *testscript.TestScript) testing.TB { return ts.Value(tbKey{}).(testing.TB) }

// sleeper NAME… starts processes that sleep; $NAME is each's PID.
func sleeper(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		ts.Setenv(name, strconv.Itoa(freezertest.Sleeper(tbOf(ts))))
	}
}

// family PARENT CHILD starts a process with a child.
func family(ts *testscript.TestScript, _ bool, names []string) {
	tb := tbOf(ts)
	parent := freezertest.Start(tb, "sh", "-c", "sleep 1000 & wait").Process.Pid
	child := ""
	freezertest.Eventually(tb, "there is a child", func() bool {
		out, _ := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(parent)).Output()
		child = strings.TrimSpace(string(out))
		return child != ""
	})
	tb.Cleanup(func() {
		if pid, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	ts.Setenv(names[0], strconv.Itoa(parent))
	ts.Setenv(names[1], child)
}

// blocker NAME starts a process that cannot be frozen.
func blocker(ts *testscript.TestScript, _ bool, names []string) {
	pid, _ := freezertest.Blocker(tbOf(ts))
	ts.Setenv(names[0], strconv.Itoa(pid))
}

// mnt NAME makes a directory that is unmounted when the test ends.
func mountpoint(ts *testscript.TestScript, _ bool, names []string) {
	dir := ts.MkAbs(names[0])
	ts.Check(os.Mkdir(dir, 0o755))
	forget := freezertest.OnUnmount(dir)
	tbOf(ts).Cleanup(func() {
		_ = syscall.Unmount(dir, syscall.MNT_FORCE|syscall.MNT_DETACH) // it may not be mounted any more
		forget()
	})
}

// status CODE PROGRAM ARG… runs a program that must end with this exit status; 128
// and more is a signal, as in a shell.
func status(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
		got = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	case errors.As(err, &exit):
		got = exit.ExitCode()
	default:
		ts.Check(err)
	}
	if args[0] != strconv.Itoa(got) {
		ts.Fatalf("the exit status is %d", got)
	}
}

// until REGEXP PROGRAM ARG… runs a program again until its output matches.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	freezertest.Eventually(tbOf(ts), strings.Join(args, " "), func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout"))
	})
}

// alive PID fails when the process is dead, ! alive PID when it lives on.
func alive(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(args[0])
	ts.Check(err)
	lives := func() bool {
		p, ok := freezer.Describe(pid)
		return ok && p.State != "Z"
	}
	if neg {
		freezertest.Eventually(tbOf(ts), "process "+args[0]+" is dead", func() bool { return !lives() })
	} else if !lives() {
		ts.Fatalf("process %d is dead", pid)
	}
}

// needs PROGRAM… skips the script where a program is missing. Besides, it can need
// root and fuse.
func needs(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		var err error
		switch name {
		case "root":
			if os.Geteuid() != 0 {
				err = errors.New("only root can")
			}
		case "fuse":
			var dev *os.File
			if dev, err = os.OpenFile("/dev/fuse", os.O_RDWR, 0); err == nil {
				dev.Close()
			}
		default:
			_, err = exec.LookPath(name)
		}
		if err != nil {
			tbOf(ts).Skip(err)
		}
	}
}
