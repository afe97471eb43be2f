//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// What cannot be carried is named, before and by the checkpoint itself, and the
// job goes on.
func TestObstaclesAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ python, want string }{
		"huge":      {"import os; f = os.memfd_create('m', os.MFD_HUGETLB)", "its file is of huge pages"},
		"secret":    {"import ctypes; f = ctypes.CDLL(None).syscall(447, 0)", "it is secret memory"},
		"linked":    {"import os; f = open('gone', 'w'); os.mkdir('d'); os.link('gone', 'd/other'); os.unlink('gone')", "has other names"},
		"directory": {"import os; os.mkdir('d'); f = open('d/gone', 'w'); os.unlink('d/gone'); os.rmdir('d')", "and so is the directory"},
		"large":     {"import os; f = open('gone', 'w'); os.posix_fallocate(f.fileno(), 0, (1 << 30) + 4096); os.unlink('gone')", "too large for an image"},
		"lease":     {"import fcntl; f = open('leased', 'w'); fcntl.fcntl(f, 1024, 1)", "it has a lease"},
		"fifo":      {"import os; os.mkfifo('fifo'); f = os.open('fifo', os.O_RDWR); os.unlink('fifo')", "its named pipe was deleted"},
		"events":    {"import ctypes; l = ctypes.CDLL(None); f = l.inotify_init1(0); l.inotify_add_watch(f, b'.', 0x100); open('made', 'w')", "events that nobody has read"},
		"gone":      {"import ctypes, os; l = ctypes.CDLL(None); f = l.inotify_init1(0); g = open('gone', 'w'); l.inotify_add_watch(f, b'gone', 2); os.unlink('gone')", "the path of its watch 1 is not found"},
		"fanotify":  {"import ctypes; l = ctypes.CDLL(None); f = l.fanotify_init(0, 0)", "it is of fanotify"},
		"async":     {"import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, 8, os.getppid()); fcntl.fcntl(r, 4, 0o20000)", "which is not in the group"},
		"strict":    {"import ctypes, os; l = ctypes.CDLL(None); r, w = os.pipe(); b = ctypes.create_string_buffer(1)\nif os.fork() == 0: l.prctl(22, 1); l.read(r, b, 1)", "it is in the strict mode of seccomp"},
		"rights":    {"import socket; a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0])", "descriptors are under way to it (SCM_RIGHTS): 1"},
		"urgent":    {"import socket; a, b = socket.socketpair(); a.send(b'x', socket.MSG_OOB)", "it has a byte out of band"},
		"unnamed":   {"import socket; a = socket.socket(1, 2); b = socket.socket(1, 2); b.bind('s'); a.connect('s'); import os; os.unlink('s')", "it is connected to a socket that cannot be found by a name any more"},
		"caller":    {"import socket, subprocess, sys, os; s = socket.socket(1); s.bind('s'); s.listen(); subprocess.Popen([sys.executable, '-c', 'import os, socket, time; open(os.environ[\"OUT\"] + \"/cgroup.procs\", \"w\").write(\"0\"); s = socket.socket(1); s.connect(\"s\"); print(1, flush=True); time.sleep(1000)'], stdout=subprocess.PIPE).stdout.readline()", "connections from outside of the group wait at s"},
		"called":    {"import socket, subprocess, sys, os; subprocess.Popen([sys.executable, '-c', 'import os, socket, time; open(os.environ[\"OUT\"] + \"/cgroup.procs\", \"w\").write(\"0\"); s = socket.socket(1); s.bind(\"s\"); s.listen(); print(1, flush=True); time.sleep(1000)'], stdout=subprocess.PIPE).stdout.readline(); s = socket.socket(1); s.connect('s')", "it goes outside of the group: socket:"},
		"hung up":   {"import os, pty, signal; m, s = pty.openpty(); os.close(m)", "it goes outside of the group: /dev/pts/"},
		"watched":   {"import os, pty, subprocess, sys; m, s = pty.openpty(); subprocess.Popen([sys.executable, '-c', 'import os, time; open(os.environ[\"OUT\"] + \"/cgroup.procs\", \"w\").write(\"0\"); print(1, flush=True); time.sleep(1000)'], stdin=s, stdout=subprocess.PIPE).stdout.readline()", "it goes outside of the group: /dev/ptmx"},
		"led":       {"import os, pty, subprocess, sys; m, s = pty.openpty(); p = subprocess.Popen([sys.executable, '-c', 'import os, time, fcntl; f = int(os.environ[\"F\"]); os.setsid(); fcntl.ioctl(f, 0x540e, 0); os.close(f); print(1, flush=True); time.sleep(1000)'], pass_fds=[s], env=dict(os.environ, F=str(s)), stdout=subprocess.PIPE); p.stdout.readline(); subprocess.Popen([sys.executable, '-c', 'import os, time; open(os.environ[\"OUT\"] + \"/cgroup.procs\", \"w\").write(\"0\"); print(1, flush=True); time.sleep(1000)'], pass_fds=[m], stdout=subprocess.PIPE).stdout.readline()", "it leads a session whose terminal is not the group's own"},
		"raw":       {"import socket; s = socket.socket(2, 3, 1)", "it is a socket whose protocol is not carried: 1"},
		"refused":   {"import socket; s = socket.socket(2, 2); s.connect(('127.0.0.1', 9)); s.send(b'x'); import time; time.sleep(0.1)", "it has an error that it was not told yet"},
		"packets":   {"import socket; s = socket.socket(17, 2)", "it is a socket of a family that is not carried: packet"},
		"proc":      {"f = open('/proc/self/stat')", "it is a file of the kernel's"},
		"namespace": {"import ctypes; ctypes.CDLL(None).unshare(0x04000000)", "it has a namespace of its own: uts"},
		"timer":     {"import ctypes, signal, threading, time; signal.pthread_sigmask(0, [10]); i = ctypes.c_int(); threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); ctypes.CDLL(None).timer_create(3, None, ctypes.byref(i))", "counts the processor time of a thread"},
		"group":     {"import os, time\nif os.fork() == 0:\n    open(os.environ['OUT'] + '/cgroup.procs', 'w').write('0'); time.sleep(1000)\ntime.sleep(0.2)", "is not in the group"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := pySubject(t, c.python)
			out := freezertest.Tree(t, freezer.Cgroup2)
			other, err := out.Create("other")
			if err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(os.Environ(), "OUT="+other.Dir())
			s := start(t, cmd)
			obstacles, err := Check(s.group)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, o := range obstacles {
				found = found || o.Hinders() && strings.Contains(o.String(), c.want)
			}
			if !found {
				t.Errorf("it is not named: %v", obstacles)
			}
			_, err = Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{Leave: Killed})
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) || !errors.Is(err, freezer.ErrUnsupported) {
				t.Errorf("Save says %v", err)
			}
			lives(t, s)
		})
	}
}

// pySubject is a python program that makes a state, and ends by SIGUSR1.
func pySubject(t *testing.T, program string) *exec.Cmd {
	t.Helper()
	return python(t, program+"\nimport signal, sys\nsignal.pthread_sigmask(0, [10])\nprint('ready', flush=True)\nsignal.sigwait([10])")
}

// python is a python program that says ready by itself.
func python(t *testing.T, program string) *exec.Cmd {
	t.Helper()
	path, err := filepath.EvalSymlinks("/usr/bin/python3")
	if err != nil {
		t.Skip(err)
	}
	return exec.Command(path, "-c", program)
}

// What waits in a socket is only looked at while the job is stopped.
func TestADatagramWhoseSenderIsGoneIsRefused(t *testing.T) {
	s := start(t, pySubject(t, `
import socket, os
a, b, n = socket.socket(1, 2), socket.socket(1, 2), b"\0%d" % os.getpid()
a.bind(n + b"a"); b.bind(n + b"b"); a.sendto(b"x", n + b"b"); a.close()`))
	if _, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{}); err == nil || !strings.Contains(err.Error(), "a datagram waits whose sender @") {
		t.Error(err)
	}
	lives(t, s)
}

// What is typed ahead cannot be looked at without taking it from its reader.
func TestATerminalWithSomethingUnreadIsRefused(t *testing.T) {
	s := start(t, pySubject(t, `import os, pty; m, s = pty.openpty(); os.write(m, b"typed\n")`))
	if _, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{}); !errors.Is(err, errUnread) || !strings.Contains(err.Error(), "6 bytes wait at /dev/pts/") {
		t.Error(err)
	}
	lives(t, s)
}

func TestADatagramOfOthersIsRefused(t *testing.T) {
	s := start(t, pySubject(t, `
import socket
a, b = socket.socket(2, 2), socket.socket(2, 2)
b.bind(("127.0.0.1", 0)); a.sendto(b"x", b.getsockname()); a.close()`))
	if _, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{}); !errors.Is(err, errUnread) || !strings.Contains(err.Error(), "a datagram of 127.0.0.1:") {
		t.Error(err)
	}
	lives(t, s)
}

func TestAPortThatIsTakenIsNamed(t *testing.T) {
	s := start(t, pySubject(t, `import socket; s = socket.create_server(("127.0.0.1", 0)); open("port", "w").write("%s:%d" % s.getsockname())`))
	image := s.save(t, Killed)
	address, err := os.ReadFile(filepath.Join(s.dir, "port"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", string(address))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), string(address)+" is taken") {
		t.Error(err)
	}
	other.Close()
	goesOn(t, s, s.restore(t, image))
}

func TestATerminalWhoseNumberIsTakenIsRefused(t *testing.T) {
	s := start(t, cSubject(t, "terminals"))
	image := s.save(t, Killed)
	taken := make([]*os.File, 4)
	for i := range taken {
		var err error
		if taken[i], err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
			t.Fatal(err)
		}
		defer taken[i].Close()
	}
	if _, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "is taken") || !strings.Contains(err.Error(), "/dev/pts/") {
		t.Error(err)
	}
	for _, f := range taken {
		f.Close()
	}
	goesOn(t, s, s.restore(t, image))
}

func TestAPIDThatIsTakenIsNamed(t *testing.T) {
	s := start(t, cSubject(t, "registers"))
	image := s.save(t, Running)
	_, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{Group: "second"})
	if err == nil || !strings.Contains(err.Error(), "is taken: by subject") {
		t.Error(err)
	}
	if g, _ := s.f.Group("second"); g.Exists() {
		t.Error("the group is left")
	}
	lives(t, s)
}

func TestChangedFilesAreRefused(t *testing.T) {
	s := start(t, cSubject(t, "files"))
	image := s.save(t, Killed)
	path := filepath.Join(s.dir, "a")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	st, _ := os.Stat(path)
	for what, content := range map[string]string{
		"has become shorter": string(was[:3]),
		"was changed":        "x" + string(was[1:]),
		"no such file":       "",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if content == "" {
			_ = os.Remove(path)
		}
		_, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{})
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.WriteFile(path, was, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Chtimes(path, st.ModTime(), st.ModTime())
	goesOn(t, s, s.restore(t, image))
}

func TestAProgramThatWasReplacedIsRefused(t *testing.T) {
	cmd := cSubject(t, "registers")
	program := filepath.Join(t.TempDir(), "program")
	text, err := os.ReadFile(cmd.Path)
	if err == nil {
		err = os.WriteFile(program, text, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = program
	s := start(t, cmd)
	image := s.save(t, Killed)
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(program, sleep, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{})
	if err == nil || !strings.Contains(err.Error(), "was replaced since: its build ID is") {
		t.Error(err)
	}
	// One that was installed anew, and is the same, will do.
	if err := os.WriteFile(program, text, 0o700); err != nil {
		t.Fatal(err)
	}
	_ = os.Chtimes(program, time.Unix(1, 0), time.Unix(1, 0))
	goesOn(t, s, s.restore(t, image))
}

// A pipe of others is named, and replaced only when told.
func TestStandardStreamsThatGoOutside(t *testing.T) {
	cmd := cSubject(t, "registers")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd.Stdin = r
	s := start(t, cmd)
	obstacles, err := Check(s.group)
	if err != nil || len(obstacles) != 1 || obstacles[0].Hinders() || !strings.HasPrefix(obstacles[0].Option, "--stdin") {
		t.Errorf("%v, %v", obstacles, err)
	}
	image := s.save(t, Killed)
	if _, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "--stdin") {
		t.Error(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	job, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{Streams: [3]*os.File{null}})
	if err != nil {
		t.Fatal(err)
	}
	if link, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(job.PID), "fd/0")); link != "/dev/null" {
		t.Errorf("it has %s", link)
	}
	goesOn(t, s, job)
}

func TestAGroupCanBeLeftAndRestoredFrozen(t *testing.T) {
	s := start(t, cSubject(t, "threads"))
	image := s.save(t, Frozen)
	if state, err := s.group.State(); err != nil || state != freezer.Frozen {
		t.Fatalf("%v, %v", state, err)
	}
	if err := s.group.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	if err := s.group.Thaw(); err != nil {
		t.Fatal(err)
	}
	job, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{Frozen: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.group.Kill(context.Background())
		_, _, _ = job.Wait()
	})
	if state, err := s.group.State(); err != nil || state != freezer.Frozen {
		t.Errorf("%v, %v", state, err)
	}
	if err := s.group.Thaw(); err != nil {
		t.Fatal(err)
	}
	goesOn(t, s, job)
}

// A job of another user keeps being his.
func TestIdentityIsCarried(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip(err)
	}
	c := cSubject(t, "signals")
	if err := os.Chmod(filepath.Dir(c.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--reuid=1234", "--regid=2345", "--groups=7,8", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-sys_admin", c.Path, "signals")
	s := start(t, cmd)
	before, _ := os.ReadFile("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/status")
	job := s.restore(t, s.save(t, Killed))
	after, _ := os.ReadFile("/proc/" + strconv.Itoa(job.PID) + "/status")
	for _, field := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "SigQ"} {
		if a, b := statusLine(before, field), statusLine(after, field); a != b && field != "SigQ" || a == "" {
			t.Errorf("%s was %q and is %q", field, a, b)
		}
	}
	goesOn(t, s, job)
}

func statusLine(text []byte, field string) string {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return rest
		}
	}
	return ""
}
