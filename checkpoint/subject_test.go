//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestMain(m *testing.M) {
	// Whoever started the tests may have left descriptors open, which subjects
	// must not inherit.
	_ = unix.CloseRange(3, 1<<20, unix.CLOSE_RANGE_CLOEXEC)
	// The orphans of killed jobs come to the tests, which reap them at once.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if name := os.Getenv(subjectEnv); name != "" {
		goSubjects[name]()
		os.Exit(0)
	}
	if what := os.Getenv(saverEnv); what != "" {
		beSaver(what)
	}
	freezertest.Main(tidy{m})
}

// tidy removes the compiled subject after the tests.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	defer func() { _ = os.RemoveAll(subjectDir) }()
	return t.m.Run()
}

var subjectDir string

var compiledSubject = sync.OnceValues(func() (path string, err error) {
	if subjectDir, err = os.MkdirTemp("", "freezer-subject-"); err != nil {
		return "", err
	}
	path = filepath.Join(subjectDir, "subject")
	out, err := exec.Command("gcc", "-O1", "-pthread", "-Wno-unused-result", "-o", path, "testdata/subject.c").CombinedOutput()
	if err != nil {
		err = errors.New(err.Error() + ": " + string(out))
	}
	return path, err
})

// cSubject is the program of testdata/subject.c in one of its states.
func cSubject(t testing.TB, state string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no C compiler for the subject")
	}
	path, err := compiledSubject()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, state)
}

// A subject is a program in a group of its own, which makes a state, and looks at
// it again when it gets SIGUSR1.
type subject struct {
	f      *freezer.Freezer
	group  *freezer.Group
	cmd    *exec.Cmd
	dir    string
	output string
}

// needRoot skips a test that chooses PIDs.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("to restore with the same PIDs, be root")
	}
}

// start starts a subject and waits until its state is made.
func start(t testing.TB, cmd *exec.Cmd) *subject {
	t.Helper()
	return startIn(t, freezer.Cgroup2, cmd)
}

func startIn(t testing.TB, backend string, cmd *exec.Cmd) *subject {
	t.Helper()
	needRoot(t)
	s := &subject{f: freezertest.Tree(t, backend), cmd: cmd, dir: t.TempDir()}
	s.output = filepath.Join(s.dir, "output")
	out, err := os.OpenFile(s.output, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, out, out
	g, err := s.f.Create("job")
	if err != nil {
		t.Fatal(err)
	}
	s.group = g
	// It moves itself before it starts, so that all that it starts is in the group.
	cmd.Args = append([]string{"sh", "-c", `echo $$ > "$0/cgroup.procs"; exec "$@"`, g.Dir(), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	freezertest.Run(t, cmd)
	freezertest.Eventually(t, "the subject is ready", func() bool { return strings.Contains(s.said(), "ready\n") })
	return s
}

func (s *subject) said() string {
	text, _ := os.ReadFile(s.output)
	return string(text)
}

// save makes an image of the subject.
func (s *subject) save(t testing.TB, leave Leave) []byte {
	t.Helper()
	var image bytes.Buffer
	stats, err := Save(context.Background(), s.group, &image, SaveOptions{Leave: leave})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d processes, %d tasks, %d bytes, stopped %s", stats.Processes, stats.Tasks, stats.Bytes, stats.Stopped.Round(10*time.Microsecond))
	if leave == Killed {
		_ = s.cmd.Wait()
		reap(t, image.Bytes())
	}
	return image.Bytes()
}

// reap waits for the processes of an image, which were killed, so that their PIDs
// are free.
func reap(t testing.TB, image []byte) {
	t.Helper()
	job, err := ReadJob(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	reapJob(t, job)
}

func reapJob(t testing.TB, job *Job) {
	t.Helper()
	for _, p := range job.Processes {
		freezertest.Eventually(t, "its processes are gone", func() bool {
			_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
			return unix.Kill(p.PID, 0) == unix.ESRCH
		})
	}
}

// restore restores an image in the subject's place.
func (s *subject) restore(t testing.TB, image []byte) *Restored {
	t.Helper()
	start := time.Now()
	job, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{})
	for err != nil && strings.Contains(err.Error(), "/dev/pts/") && time.Since(start) < 20*time.Second {
		time.Sleep(50 * time.Millisecond) // a test beside this one has the terminal's number
		job, err = Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restored in %s", time.Since(start).Round(10*time.Microsecond))
	t.Cleanup(func() {
		_ = s.group.Kill(context.Background())
		_, _, _ = job.Wait()
	})
	return job
}

// restoreFile restores an image from a file.
func (s *subject) restoreFile(t testing.TB, path string) *Restored {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	job, err := Restore(context.Background(), f, s.f, RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.group.Kill(context.Background())
		_, _, _ = job.Wait()
	})
	return job
}

// goesOn has a subject look at its state, and end.
func goesOn(t *testing.T, s *subject, job *Restored) {
	t.Helper()
	if err := job.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	ends(t, s, job)
}

// ends makes sure that a job ends well.
func ends(t *testing.T, s *subject, job *Restored) {
	t.Helper()
	watchdog := time.AfterFunc(20*time.Second, func() { _ = s.group.Kill(context.Background()) })
	defer watchdog.Stop()
	status, by, err := job.Wait()
	if status != 0 || by != 0 || err != nil {
		t.Errorf("it ended with status %d, signal %v, %v: %s", status, by, err, s.said())
	}
}

// lives has the process that was checkpointed itself look at its state.
func lives(t *testing.T, s *subject) {
	t.Helper()
	_ = s.cmd.Process.Signal(unix.SIGUSR1)
	watchdog := time.AfterFunc(20*time.Second, func() { _ = s.group.Kill(context.Background()) })
	defer watchdog.Stop()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the job itself: %v: %s", err, s.said())
	}
}

var states = []string{"registers", "signals", "memory", "identity", "files", "locks", "nameless", "pipes", "seccomp", "settings", "sharing", "stopped", "timers", "watches", "threads", "tree", "sockets", "terminals", "internet", "connections"}

// someStates are those of variants of what TestStateIsCarried does with each, which
// would take minutes: all with FREEZER_LONG.
func someStates() []string {
	if os.Getenv("FREEZER_LONG") != "" {
		return states
	}
	return []string{"registers", "signals", "memory", "files", "pipes", "threads", "tree"}
}

func TestStateIsCarried(t *testing.T) {
	for _, state := range states {
		t.Run(state, func(t *testing.T) {
			s := start(t, cSubject(t, state))
			goesOn(t, s, s.restore(t, s.save(t, Killed)))
		})
	}
}

// What was asked of the job for the image must not be seen by the job itself.
func TestTheJobGoesOnUnharmed(t *testing.T) {
	for _, state := range states {
		t.Run(state, func(t *testing.T) {
			s := start(t, cSubject(t, state))
			s.save(t, Running)
			s.save(t, Running)
			lives(t, s)
		})
	}
}

// An image of what was restored is as good as the first one.
func TestWhatWasRestoredCanBeCheckpointedAgain(t *testing.T) {
	for _, state := range someStates() {
		t.Run(state, func(t *testing.T) {
			s := start(t, cSubject(t, state))
			job := s.restore(t, s.save(t, Killed))
			var image bytes.Buffer
			if _, err := Save(context.Background(), s.group, &image, SaveOptions{Leave: Killed}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := job.Wait(); err != nil {
				t.Fatal(err)
			}
			reap(t, image.Bytes())
			goesOn(t, s, s.restore(t, image.Bytes()))
		})
	}
}
