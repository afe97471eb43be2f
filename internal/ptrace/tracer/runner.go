package tracer

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// Where the kernel lets a user trace only descendants (kernel.yama.ptrace_scope
// is 1), a job can be held by a tracer above it only. So there `freezer run` does
// not become the program: it starts a runner, which is the program's parent, and
// that of all orphans below it. A runner is a tracer that cares for its
// descendants, and the tracer of all leaves these alone. Everybody asks both.
//
// freezer run itself only waits for the program's status, because the runner
// has to live on with what the program may leave.

// groupVariable makes a tracer a runner; its value is the group's directory.
const groupVariable = "FREEZER_TRACER_GROUP"

// NeedsRunner says whether programs must be run by Run to be freezable.
func NeedsRunner() bool {
	scope, err := kernfs.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	return err == nil && len(scope) > 0 && scope[0] == '1' && os.Geteuid() != 0
}

// runners lists the PIDs of the runners. There is seldom one.
func (h *Hierarchy) runners() (pids []int) {
	dir := filepath.Join(h.mount, runnersName)
	if unix.Access(dir, unix.F_OK) != nil {
		return nil
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func runnerSocket(pid int) string { return runnersName + "/" + strconv.Itoa(pid) }

// Run runs a program in a group, as its runner's child, and returns how it ended:
// its status, or the signal that ended it. Signals that end this process
// otherwise are handed on to it; those of the terminal reach both.
func (h *Hierarchy) Run(dir, program string, argv []string) (status int, by unix.Signal, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "runner"), os.NewFile(uintptr(pair[1]), "starter")
	defer ours.Close()
	mark, err := h.Mark(dir)
	if err != nil {
		return 0, 0, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	p, err := os.StartProcess("/proc/self/exe", append([]string{"freezer-runner", program}, argv...), &os.ProcAttr{
		Env:   append(os.Environ(), mark, startVariable+"="+h.mount, groupVariable+"="+dir),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
	})
	theirs.Close()
	if err != nil {
		return 0, 0, err
	}
	go func() { _, _ = p.Wait() }()
	return await(ours, signals)
}

// await reads what the runner tells: the job's PID, and how it ended.
func await(runner *os.File, signals <-chan os.Signal) (status int, by unix.Signal, err error) {
	var job int
	if err := hear(runner, "started %d", &job); err != nil {
		return 0, 0, err
	}
	pass := func(s os.Signal) { _ = unix.Kill(job, s.(unix.Signal)) }
	for range len(signals) { // from before there was a job that the terminal's could reach
		pass(<-signals)
	}
	go func() {
		for s := range signals {
			if s != unix.SIGINT && s != unix.SIGQUIT {
				pass(s)
			}
		}
	}()
	err = hear(runner, "ended %d %d", &status, &by)
	return status, by, err
}

func hear(runner *os.File, form string, values ...any) error {
	buf := make([]byte, maxMessage)
	n, err := runner.Read(buf)
	if err != nil || n == 0 {
		return fmt.Errorf("the runner, which is to hold the program, has ended: %w", unix.ESRCH)
	}
	if text, failed := bytes.CutPrefix(buf[:n], []byte("failed ")); failed {
		errno, _ := strconv.Atoi(string(text))
		return unix.Errno(errno)
	}
	_, err = fmt.Sscanf(string(buf[:n]), form, values...)
	return err
}

// A job is what a runner runs.
type job struct {
	pid  int
	over bool
}

// runJob is the runner, from its beginning to its end.
func runJob(place string) error {
	runtime.LockOSThread()
	h := &Hierarchy{mount: place}
	dir := os.Getenv(groupVariable)
	os.Unsetenv(groupVariable)
	// Caught and not ignored: the program gets none of this.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	t, path, err := h.newRunner(dir)
	if err != nil {
		tell("failed %d", unix.EPERM)
		return err
	}
	defer os.Remove(filepath.Join(place, runnerSocket(t.self)))
	for t.holds(path) { // the program begins when the group is thawed
		t.serve(idleBeat)
		t.checkGroups()
	}
	p, err := os.StartProcess(os.Args[1], os.Args[2:], &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		errno, ok := underlying(err)
		if !ok {
			errno = unix.EIO
		}
		tell("failed %d", errno)
		return err
	}
	t.job.pid = p.Pid
	tell("started %d", p.Pid)
	_ = p.Release()
	t.buryAll()
	t.run()
	return nil
}

func underlying(err error) (unix.Errno, bool) {
	pe, ok := err.(*os.PathError)
	if !ok {
		return 0, false
	}
	errno, ok := pe.Err.(unix.Errno)
	return errno, ok
}

// tell tells the one who waits for the job.
func tell(form string, values ...any) {
	_, _ = unix.Write(startSocket, fmt.Appendf(nil, form, values...))
}

// newRunner makes this process the runner of a group's job. Its record says where
// its children belong.
func (h *Hierarchy) newRunner(dir string) (t *tracer, path string, err error) {
	if err := h.check(); err != nil {
		return nil, "", err
	}
	path, err = h.path(dir)
	if err != nil {
		return nil, "", err
	}
	id, ok := h.identity(path)
	if !ok {
		return nil, "", unix.ENOENT
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, "", err
	}
	if err := unix.Mkdir(filepath.Join(h.mount, runnersName), 0o700); err != nil && err != unix.EEXIST {
		return nil, "", err
	}
	t, err = h.newTracer(runnerSocket(os.Getpid()), record{id: id, path: path})
	if err != nil {
		return nil, "", err
	}
	t.job = &job{}
	// Listening already, it misses no freeze that comes after this.
	list, err := h.askOne(socketName, false, "list", 0, "")
	if err != nil && err != errNobody {
		return nil, "", err
	}
	for line := range strings.Lines(list) {
		number, group, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			t.freeze(group, n)
		}
	}
	return t, path, nil
}

// buryAll reaps what has ended: tracees and, in a runner, children.
func (t *tracer) buryAll() {
	t.bury()
	if t.job == nil {
		return
	}
	for _, pid := range children(t.self) {
		if t.tasks[pid] != nil {
			continue
		}
		if s, err := ptrace.Poll(pid); err == nil && s.Ended() {
			t.job.ended(pid, s)
		}
	}
}

// ended notes that a child of the runner has ended.
func (j *job) ended(pid int, s ptrace.Status) {
	if j == nil || pid != j.pid || j.over {
		return
	}
	j.over = true
	status, by := s.ExitStatus()
	tell("ended %d %d", status, by)
}
