//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// saverEnv makes this test binary one that saves or restores a group, and dies.
const saverEnv = "CHECKPOINT_TEST_SAVER"

// A task for it, as JSON.
type saverTask struct {
	Root, Image string
	Restore     bool
	Track       bool
	NewPIDs     bool
	Die         int // at its Nth ptrace call: after it, or before it when negative; 0: never
}

func beSaver(text string) {
	var task saverTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		panic(err)
	}
	calls := 0
	ptrace.OnCall = func(before bool) {
		if before {
			calls++
		}
		if before && calls == -task.Die || !before && calls == task.Die {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	f, err := freezer.Open(freezer.WithBackend(freezer.Cgroup2), freezer.WithRoot(task.Root))
	if err == nil && task.Restore {
		err = restoreTask(f, task)
	} else if err == nil {
		var g *freezer.Group
		if g, err = f.Group("job"); err == nil {
			_, err = SaveFile(context.Background(), g, task.Image, SaveOptions{Track: task.Track})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func restoreTask(f *freezer.Freezer, task saverTask) error {
	r, err := os.Open(task.Image)
	if err != nil {
		return err
	}
	defer r.Close()
	o := RestoreOptions{NewPIDs: task.NewPIDs}
	if o.NewPIDs {
		o.Group = "second"
	}
	_, err = Restore(context.Background(), r, f, o)
	return err
}

// saver starts one.
func saver(t *testing.T, task saverTask) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), saverEnv+"="+string(text))
	return cmd
}

// alive makes sure that a subject runs and nobody traces it.
func (s *subject) alive(t *testing.T, when any) {
	t.Helper()
	pid := s.cmd.Process.Pid
	for _, tid := range proc.Threads(pid) {
		freezertest.Eventually(t, "nobody traces it", func() bool { return proc.Status(tid, "TracerPid") == "0" })
	}
	if st, err := proc.ReadStat(pid); err != nil || st.State == 'Z' || st.State == 'T' || st.State == 't' {
		t.Fatalf("%v: the job is in state %c, %v: %s", when, st.State, err, s.said())
	}
}

// wholeOrAbsent makes sure that an image is whole, or not there.
func wholeOrAbsent(t *testing.T, image string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(image), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Read(f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		f.Close()
	}
}

func TestKillingACheckpointAtAnyOfItsCallsHarmsNothing(t *testing.T) {
	s := start(t, cSubject(t, "signals"))
	image := filepath.Join(t.TempDir(), "image")
	for _, sign := range []int{-1, 1} { // before it, and after it
		if sign > 0 && os.Getenv("FREEZER_LONG") == "" {
			break // after a call is before the next one, or nearly so
		}
		n := 1
		for ; ; n++ {
			cmd := saver(t, saverTask{Root: s.f.Root(), Image: image, Die: sign * n})
			var said bytes.Buffer
			cmd.Stderr = &said
			err := cmd.Run()
			s.alive(t, fmt.Sprint("killed at call ", sign*n))
			wholeOrAbsent(t, image)
			if err == nil {
				break
			}
			if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(interface{ Signaled() bool }).Signaled() == false {
				t.Fatalf("at call %d: %v: %s", sign*n, err, said.String())
			}
		}
		t.Logf("it makes %d calls", n-1)
	}
	lives(t, s)
}

func TestKillingACheckpointAtARandomMomentHarmsNothing(t *testing.T) {
	for _, cmd := range []*exec.Cmd{goSubject(t, "runtime"), cSubject(t, "threads"), cSubject(t, "registers")} {
		s := start(t, cmd)
		image := filepath.Join(t.TempDir(), "image")
		tries := 15
		if os.Getenv("FREEZER_LONG") != "" {
			tries = 170
		}
		for range tries {
			cmd := saver(t, saverTask{Root: s.f.Root(), Image: image})
			freezertest.Run(t, cmd)
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			s.alive(t, "killed at a random moment")
			wholeOrAbsent(t, image)
		}
		s.save(t, Running) // what they left is not in the way
		lives(t, s)
	}
}

func TestKillingARestoreLeavesNothingBehind(t *testing.T) {
	s := start(t, cSubject(t, "signals"))
	pid := s.cmd.Process.Pid
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, s.save(t, Killed), 0o600); err != nil {
		t.Fatal(err)
	}
	left := func() (pids []int) {
		for _, pid := range proc.All() { // its name is that of the first process, too, and of no other
			st, err := proc.ReadStat(pid)
			dir, _ := os.Readlink(proc.Path(pid, "cwd"))
			if err == nil && st.State != 'Z' && (strings.HasPrefix(st.Command, "freezer-restor") || dir == s.dir) {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	released := 0
	n := 1
	for ; ; n++ {
		err := saver(t, saverTask{Root: s.f.Root(), Image: image, Die: -n, Restore: true}).Run()
		if err == nil {
			break
		}
		var now []int
		for begin := time.Now(); ; time.Sleep(time.Millisecond) { // who was killed takes a moment to die
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			if now = left(); len(now) == 0 || time.Since(begin) > time.Second {
				break
			}
		}
		if len(now) > 1 || len(now) == 1 && now[0] != pid {
			t.Fatalf("at call %d %v are left", n, now)
		}
		if len(now) == 1 { // it was let go
			released++
			_ = s.group.Kill(context.Background())
			freezertest.Eventually(t, "the job has ended", func() bool {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
				return unix.Kill(pid, 0) == unix.ESRCH
			})
		}
	}
	t.Logf("it makes %d calls, %d of them after the job was let go", n-1, released)
	if released > 2 {
		t.Errorf("the job was left behind at %d calls", released)
	}
	_ = unix.Kill(pid, unix.SIGUSR1)
	var ws unix.WaitStatus
	freezertest.Eventually(t, "the job has ended", func() bool {
		got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		return got == pid || err == unix.ECHILD
	})
	if ws != 0 {
		t.Errorf("it ended with %v: %s", ws, s.said())
	}
}

// And nothing is left of what is built of a damaged image.
func TestDamagedImagesAreNotRestored(t *testing.T) {
	s := start(t, cSubject(t, "registers"))
	image := s.save(t, Killed)
	for range 15 {
		damaged := bytes.Clone(image)
		bit := rand.IntN(8 * len(image))
		damaged[bit/8] ^= 1 << (bit % 8)
		if rand.IntN(3) == 0 {
			damaged = image[:rand.IntN(len(image))]
		}
		if _, err := Restore(context.Background(), bytes.NewReader(damaged), s.f, RestoreOptions{}); !errors.Is(err, ErrImage) {
			t.Fatalf("bit %d is wrong, and the restore says %v", bit, err)
		}
		if tasks, err := s.group.Tasks(); err != nil || len(tasks) > 0 {
			t.Fatalf("%v are left, %v", tasks, err)
		}
	}
	goesOn(t, s, s.restore(t, image))
}
