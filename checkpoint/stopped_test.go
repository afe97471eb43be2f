//go:build amd64

package checkpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// stands makes sure that all tasks of a process are stopped, and stay so.
func stands(t *testing.T, pid int) {
	t.Helper()
	for _, tid := range proc.Threads(pid) {
		freezertest.Eventually(t, "it is stopped", func() bool {
			st, err := proc.ReadStat(tid)
			return err == nil && st.State == 'T'
		})
	}
}

func TestAStoppedJobStaysStopped(t *testing.T) {
	for _, state := range []string{"threads", "signals"} {
		t.Run(state, func(t *testing.T) {
			s := start(t, cSubject(t, state))
			pid := s.cmd.Process.Pid
			_ = unix.Kill(pid, unix.SIGSTOP)
			stands(t, pid)
			for range 2 {
				s.save(t, Running)
				stands(t, pid)
			}
			image := s.save(t, Killed)
			job := s.restore(t, image)
			stands(t, job.PID)
			if err := unix.Kill(job.PID, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			goesOn(t, s, job)
		})
	}
}

func TestAKilledCheckpointLeavesAStoppedJobStopped(t *testing.T) {
	s := start(t, cSubject(t, "signals"))
	pid := s.cmd.Process.Pid
	_ = unix.Kill(pid, unix.SIGSTOP)
	stands(t, pid)
	step := 7
	if os.Getenv("FREEZER_LONG") != "" {
		step = 1
	}
	for n := 1; ; n += step {
		err := saver(t, saverTask{Root: s.f.Root(), Image: filepath.Join(t.TempDir(), "image"), Die: -n}).Run()
		stands(t, pid)
		if exit, ok := err.(*exec.ExitError); !ok || !exit.Sys().(interface{ Signaled() bool }).Signaled() {
			break // it is through, or one that was killed before has to be over first, which needs SIGCONT
		}
	}
	_ = unix.Kill(pid, unix.SIGCONT)
	freezertest.Eventually(t, "it goes on", func() bool {
		st, err := proc.ReadStat(pid)
		return err == nil && st.State == 'S'
	})
	s.save(t, Running)
	lives(t, s)
}
