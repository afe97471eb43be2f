package freezerfs_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

// serverEnv makes the test binary the server of a mount. Tests do not serve
// themselves: a process that is its own client cannot even die when something
// goes wrong.
const serverEnv = "FREEZERFS_TEST_SERVER"

func TestMain(m *testing.M) {
	for env, serve := range map[string]func(string) error{serverEnv: serve, constEnv: serveConst} {
		if order := os.Getenv(env); order != "" {
			if err := serve(order); err != nil {
				fmt.Println(int(freezer.Errno(err)), err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	if n, _ := strconv.Atoi(os.Getenv(threadsEnv)); n > 0 {
		manyThreads(n)
		os.Exit(0)
	}
	freezertest.Main(inPlaceOfItsOwn{m})
}

// inPlaceOfItsOwn has the groups that are frozen by ptrace in a directory that goes
// with the tests.
type inPlaceOfItsOwn struct{ m *testing.M }

func (in inPlaceOfItsOwn) Run() int {
	dir, err := os.MkdirTemp("", "freezerfs-run-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	_ = os.Setenv("FREEZER_RUNTIME_DIR", filepath.Join(dir, "run"))
	return in.m.Run()
}

// An order is what a server is told.
type order struct {
	Root, Backend, Dir string
	Threads            bool
	Options            freezerfs.Options
}

func serve(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	open := []freezer.Option{freezer.WithRoot(o.Root), freezer.WithBackend(o.Backend)}
	if o.Threads {
		open = append(open, freezer.WithThreads())
	}
	f, err := freezer.Open(open...)
	if err != nil {
		return err
	}
	s, err := freezerfs.Mount(f, o.Dir, o.Options)
	if err != nil {
		return err
	}
	fmt.Println("0 mounted")
	s.Wait()
	return nil
}

// A tree is a mounted tree of groups that a test has for itself.
type tree struct {
	testing.TB
	f       *freezer.Freezer
	order   order
	dir     string // where it is mounted
	server  int    // PID
	unmount func()
}

// mount shows a tree of its own, on one backend, until the test ends. Where that
// cannot be done the test is skipped with the reason. A freeze may take long, unless
// opts says otherwise: this machine is busy.
func mount(t testing.TB, backend string, opts freezerfs.Options) *tree {
	t.Helper()
	if opts.Grace == 0 {
		opts.Grace = 20 * time.Second
	}
	f := freezertest.Tree(t, backend)
	tr := &tree{TB: t, f: f, order: order{Root: f.Root(), Backend: backend, Options: opts}}
	return tr.again()
}

// again shows the same tree at another place, by another server.
func (t *tree) again() *tree {
	t.Helper()
	tr := *t
	tr.dir = publicDir(t)
	tr.start()
	return &tr
}

// publicDir is a directory that all users can reach.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "freezerfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start runs the server and waits for the mount.
func (t *tree) start() {
	t.Helper()
	t.order.Dir = t.dir
	text, err := json.Marshal(t.order)
	if err != nil {
		t.Fatal(err)
	}
	t.server, t.unmount = t.serve(t.dir, serverEnv+"="+string(text))
}

// serve runs a server of a mount at dir, which the variable tells what it is.
func (t *tree) serve(dir, env string) (pid int, detach func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	forget := freezertest.OnUnmount(dir)
	freezertest.Run(t, cmd)
	mounted := false
	detach = func() {
		if !mounted {
			return
		}
		err := unix.Unmount(dir, unix.MNT_DETACH)
		if err == unix.EPERM { // by fusermount3
			err = freezerfs.Unmount(dir, true)
			mounted = err != nil
		}
		if err != nil && err != unix.EINVAL {
			t.Errorf("unmount: %v", err)
		}
	}
	t.Cleanup(func() { detach(); forget() })
	answer, _ := bufio.NewReader(out).ReadString('\n')
	go func() { _, _ = io.Copy(io.Discard, out) }()
	var errno int
	_, _ = fmt.Sscan(answer, &errno)
	switch err := syscall.Errno(errno); {
	case strings.HasSuffix(answer, "mounted\n"):
		mounted = true
	case err == unix.EPERM || err == unix.EACCES || err == unix.ENOENT || err == unix.ENODEV:
		t.Skip("no FUSE here: ", answer)
	default:
		t.Fatal("server: ", answer)
	}
	return cmd.Process.Pid, detach
}

// path is that of a file in the mount.
func (t *tree) path(names ...string) string {
	return filepath.Join(append([]string{t.dir}, names...)...)
}

func (t *tree) mkdir(groups ...string) {
	t.Helper()
	for _, g := range groups {
		if err := os.Mkdir(t.path(g), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func (t *tree) read(name string) string {
	t.Helper()
	text, err := os.ReadFile(t.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// write is one write(2) of text.
func (t *tree) write(text, name string) error { return writeFile(t.path(name), text) }

func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

func (t *tree) put(text string, name string) {
	t.Helper()
	if err := t.write(text, name); err != nil {
		t.Fatalf("write %q: %v", text, err)
	}
}

// refuses fails the test unless writing text gives that errno.
func (t *tree) refuses(text, name string, errno syscall.Errno) {
	t.Helper()
	if err := t.write(text, name); !errors.Is(err, errno) {
		t.Errorf("write of %q to %s: %v, want %v", text, name, err, errno)
	}
}

// says fails the test unless the file says want, and a newline.
func (t *tree) says(want, name string) {
	t.Helper()
	if got := t.read(name); got != want+"\n" {
		t.Errorf("%s says %q, want %q", name, got, want+"\n")
	}
}

// becomes waits until the file says want.
func (t *tree) becomes(want, name string) {
	t.Helper()
	freezertest.Eventually(t, name+" says "+want, func() bool {
		text, err := os.ReadFile(t.path(name))
		return err == nil && string(text) == want+"\n"
	})
}

// backends are all that there are.
var backends = []string{freezer.Cgroup2, freezer.Cgroup1, freezer.Ptrace}

// each runs a test on each backend.
func each(t *testing.T, test func(*testing.T, string)) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) { t.Parallel(); test(t, backend) })
	}
}

func TestTheSpecificationsOwnSession(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		pid := fmt.Sprint(freezertest.Sleeper(t))
		tr.mkdir("0")
		tr.says("THAWED", "0/freezer.state")
		tr.put(pid, "0/tasks")
		tr.says(pid, "0/tasks")
		tr.put("FROZEN", "0/freezer.state")
		tr.says("FROZEN", "0/freezer.state")
		tr.says("1", "0/freezer.self_freezing")
		tr.says("0", "0/freezer.parent_freezing")
		tr.put("THAWED\n", "0/freezer.state")
		tr.says("THAWED", "0/freezer.state")
		tr.says("0", "0/freezer.self_freezing")
	})
}
