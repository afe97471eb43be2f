package freezer_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// spawner starts children by posix_spawn, as make and many a shell do, without
// pause.
const spawner = `
#include <spawn.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>
extern char **environ;
int main(void) {
	char *argv[] = {"true", 0};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fork(); fork();
	for (;;) {
		pid_t pid;
		if (posix_spawnp(&pid, "true", 0, 0, argv, environ) == 0)
			waitpid(pid, 0, 0);
	}
}`

// storms are what fills a group with spawning tasks. Each returns false where
// this host lacks what it needs.
var storms = map[string]func(t *testing.T, g *freezer.Group) bool{
	"posix_spawn": func(t *testing.T, g *freezer.Group) bool {
		if _, err := exec.LookPath("gcc"); err != nil {
			return false
		}
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/spawner.c", []byte(spawner), 0o644))
		out, err := exec.Command("gcc", "-o", dir+"/spawner", dir+"/spawner.c").CombinedOutput()
		if err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		cmd := exec.Command("sh", "-c", "read go; exec "+dir+"/spawner")
		in, err := cmd.StdinPipe()
		must(t, err)
		freezertest.Run(t, cmd)
		must(t, g.Add(cmd.Process.Pid))
		must(t, in.Close())
		return true
	},
	"vfork": func(t *testing.T, g *freezer.Group) bool { // as Go's os/exec does
		w := freezertest.NewWorld(t)
		pid := w.Counter()
		must(t, g.Add(pid))
		w.(freezertest.ThreadWorld).Spawn(pid)
		return true
	},
}

// The kernel alone leaves a cgroup1 group that spawns at FREEZING, 15 to 30
// times in a hundred.
func TestGroupsThatSpawnWithoutPauseFreezeEachTime(t *testing.T) {
	for name, storm := range storms {
		t.Run(name, func(t *testing.T) {
			eachCgroup(t, func(t *testing.T, g *freezer.Group) {
				if !storm(t, g) {
					t.Skip("no gcc here")
				}
				tries := 500
				if testing.Short() {
					tries = 50
				}
				kernel := kernelAlone(t, g, tries)
				failed := 0
				var longest time.Duration
				for range tries {
					spawnOn()
					start := time.Now()
					if err := g.Freeze(context.Background()); err != nil {
						failed++
						t.Error(err)
					}
					longest = max(longest, time.Since(start))
					must(t, g.Thaw())
				}
				t.Logf("%d tries: %d failed, %d where the kernel was left alone; the longest took %v", tries, failed, kernel, longest)
			})
		})
	}
}

// spawnOn lets the storm go on for a moment that is never the same.
func spawnOn() { time.Sleep(time.Duration(time.Now().UnixNano() % int64(2*time.Millisecond))) }

// kernelAlone asks once and then only reads, for 30 ms, and counts how often that
// was in vain.
func kernelAlone(t *testing.T, g *freezer.Group, tries int) (failed int) {
	file, on, off, frozen := "cgroup.freeze", "1", "0", "cgroup.events"
	if g.Backend() == freezer.Cgroup1 {
		file, on, off, frozen = "freezer.state", "FROZEN", "THAWED", "freezer.state"
	}
	write := func(text string) { must(t, os.WriteFile(filepath.Join(g.Dir(), file), []byte(text), 0)) }
	for range tries {
		spawnOn()
		write(on)
		done := false
		for start := time.Now(); !done && time.Since(start) < 30*time.Millisecond; time.Sleep(100 * time.Microsecond) {
			text, err := os.ReadFile(filepath.Join(g.Dir(), frozen))
			must(t, err)
			done = bytes.Contains(text, []byte("frozen 1")) || bytes.HasPrefix(text, []byte("FROZEN"))
		}
		if !done {
			failed++
		}
		write(off)
	}
	return failed
}
