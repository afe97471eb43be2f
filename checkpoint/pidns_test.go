//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// beside restores an image while its PIDs are taken by the job itself.
func (s *subject) beside(t *testing.T, image []byte, o RestoreOptions) *Restored {
	t.Helper()
	o.Group, o.NewPIDs = "second", true
	job, err := Restore(context.Background(), bytes.NewReader(image), s.f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g, err := s.f.Group("second"); err == nil {
			_ = g.Kill(context.Background())
		}
		_, _, _ = job.Wait()
	})
	return job
}

func TestStateIsCarriedIntoANamespaceOfItsOwn(t *testing.T) {
	for _, state := range someStates() {
		t.Run(state, func(t *testing.T) {
			s := start(t, cSubject(t, state))
			leave := Killed // most hold something on the host that only one can hold
			if state == "registers" || state == "memory" || state == "tree" {
				leave = Running // so that their PIDs are taken
			}
			job := s.beside(t, s.save(t, leave), RestoreOptions{})
			if job.PID == s.cmd.Process.Pid {
				t.Error("it has the PID of the job")
			}
			if g, err := s.f.Group("second"); err != nil {
				t.Error(err)
			} else if pids, err := g.Processes(); err != nil || len(pids) < 2 {
				t.Errorf("its group has %v, %v", pids, err)
			}
			goesOn(t, s, job)
			if leave == Running {
				lives(t, s)
			}
		})
	}
}

func TestWhatAJobSeesOfANamespaceOfItsOwn(t *testing.T) {
	script := `trap 'exec 3>&-; ls -d /proc/[0-9]* | wc -l; echo pid $$ $(cut -d" " -f1,4 /proc/$$/stat) $(readlink /proc/self/exe | wc -l); pwd; (sleep 0.2; echo orphan) & exit 7' USR1; echo ready; while :; do sleep 0.02; done`
	s := start(t, exec.Command("bash", "-c", script))
	image := s.save(t, Running)
	job := s.beside(t, image, RestoreOptions{})
	_ = s.group.Kill(context.Background())
	_ = s.cmd.Wait()
	if err := job.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	status, by, err := job.Wait()
	if status != 7 || by != 0 || err != nil {
		t.Errorf("it ended with status %d, signal %v, %v: %s", status, by, err, s.said())
	}
	said := s.said()
	pid := strconv.Itoa(s.cmd.Process.Pid)
	for _, want := range []string{"\npid " + pid + " " + pid + " 1 1\n", "\n" + s.dir + "\n", "\norphan\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("it says %q, and not %q", said, want)
		}
	}
}

func TestTheSignalThatEndsAJobInANamespaceIsTold(t *testing.T) {
	before, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, cSubject(t, "registers"))
	job := s.beside(t, s.save(t, Running), RestoreOptions{})
	lives(t, s)
	if err := job.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, by, err := job.Wait(); by != unix.SIGKILL || err != nil {
		t.Errorf("it ended with status %d, signal %v, %v", status, by, err)
	}
	after, err := os.ReadFile("/proc/self/mounts")
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("there are mounts left: %s", after)
	}
}

// The outer PIDs are those of the freezer's groups.
func TestAJobInANamespaceIsFrozen(t *testing.T) {
	s := start(t, cSubject(t, "tree"))
	job := s.beside(t, s.save(t, Running), RestoreOptions{Frozen: true})
	g, err := s.f.Group("second")
	if err != nil {
		t.Fatal(err)
	}
	if state, err := g.State(); err != nil || state.String() != "FROZEN" {
		t.Errorf("%v, %v", state, err)
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	goesOn(t, s, job)
	lives(t, s)
}

func TestKillingARestoreIntoANamespaceLeavesNothingBehind(t *testing.T) {
	s := start(t, cSubject(t, "registers"))
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, s.save(t, Running), 0o600); err != nil {
		t.Fatal(err)
	}
	left := func() (pids []int) {
		g, err := s.f.Group("second")
		if err != nil || !g.Exists() {
			return nil
		}
		pids, _ = g.Processes()
		for _, pid := range proc.All() {
			if st, err := proc.ReadStat(pid); err == nil && st.State != 'Z' && (strings.HasPrefix(st.Command, "freezer-restor") || st.Command == "freezer-init") {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	goneSoon := func() bool { // who was killed takes a moment to die
		for begin := time.Now(); time.Since(begin) < time.Second; time.Sleep(time.Millisecond) {
			if len(left()) == 0 {
				return true
			}
		}
		return false
	}
	released, n := 0, 1
	for ; ; n++ {
		err := saver(t, saverTask{Root: s.f.Root(), Image: image, Die: -n, Restore: true, NewPIDs: true}).Run()
		if err != nil && goneSoon() {
			continue
		}
		released++ // it was let go
		g, err2 := s.f.Group("second")
		if err2 == nil {
			err2 = g.Kill(context.Background())
		}
		if err2 != nil || err == nil {
			if err2 != nil {
				t.Fatal(err2)
			}
			break
		}
	}
	t.Logf("it makes %d calls, %d of them after the job was let go", n-1, released-1)
	if released > 4 {
		t.Errorf("the job was left behind at %d calls", released-1)
	}
	freezertest.Eventually(t, "nothing is left", func() bool { return len(left()) == 0 })
	lives(t, s)
}
