package tracer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A counter is a number that processes of a test share.
type counter struct {
	path string
	n    *atomic.Uint64
}

func newCounter(t testing.TB) *counter {
	t.Helper()
	path := filepath.Join(t.TempDir(), "count")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return &counter{path, (*atomic.Uint64)(unsafe.Pointer(&mem[0]))}
}

// stands says whether nobody counts for a while.
func (c *counter) stands() bool {
	before := c.n.Load()
	time.Sleep(3 * time.Millisecond)
	return c.n.Load() == before
}

// runs waits until somebody counts.
func (c *counter) runs(t testing.TB) {
	t.Helper()
	before := c.n.Load()
	eventually(t, "the tasks run", func() bool { return c.n.Load() > before })
}

// storm starts the program in a group, with the group's marker.
func storm(t testing.TB, g *Group, program string, c *counter, mode string, n int) *exec.Cmd {
	t.Helper()
	mark, err := g.h.Mark(g.dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, mode, c.path, fmt.Sprint(n))
	cmd.Env = append(os.Environ(), mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	run(t, cmd)
	if mode != "hop" { // it has ended already, and left children
		add(t, g, cmd.Process.Pid)
	}
	t.Cleanup(func() {
		eventually(t, "all are killed", func() bool { // once may be too short for a busy machine
			err := g.h.Kill(g.dir.Path())
			if err != nil && err != unix.EOPNOTSUPP {
				t.Errorf("kill: %v", err)
			}
			return err == nil
		})
		eventually(t, "all are dead", func() bool {
			pids, err := g.h.Procs(g.dir.Path())
			return err != nil || len(pids) == 0
		})
	})
	c.runs(t)
	return cmd
}

func TestStormsAreWon(t *testing.T) {
	program := compiled(t, "storm")
	for _, mode := range []string{"fork", "vfork", "untraced", "thread", "exec", "threadexec", "hop"} {
		t.Run(mode, func(t *testing.T) {
			h := place(t)
			g := group(t, h, "t/storm")
			c := newCounter(t)
			storm(t, g, program, c, mode, 0)
			var slowest time.Duration
			for i := range tries(20) {
				begun := time.Now()
				freeze(t, g)
				slowest = max(slowest, time.Since(begun))
				if !c.stands() {
					t.Fatalf("try %d: somebody runs", i)
				}
				if frozen, err := g.Frozen(); !frozen || err != nil {
					t.Fatalf("try %d: frozen: %v, %v", i, frozen, err)
				}
				thaw(t, g)
				c.runs(t)
			}
			t.Logf("slowest freeze: %v", slowest)
		})
	}
}
