package freezer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// blockersOf freezes in vain and returns who was in the way.
func blockersOf(t *testing.T, g *freezer.Group) []freezer.Blocker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := g.Freeze(ctx); freezer.Errno(err) != unix.EBUSY {
		t.Fatalf("freeze: got %v, want EBUSY", err)
	}
	blockers, err := g.Blockers()
	must(t, err)
	return blockers
}

func wantWords(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
}

func TestBlockerNamesTheFuseServerAndItsMount(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, _ := freezertest.Blocker(t)
		must(t, g.Add(pid))
		must(t, g.Add(freezertest.Sleeper(t)))
		blockers := blockersOf(t, g)
		if len(blockers) != 1 || blockers[0].PID != pid {
			t.Fatalf("got %+v, want process %d alone", blockers, pid)
		}
		b := blockers[0]
		wantWords(t, b.Reason, "FUSE server of "+b.Mount)
		wantWords(t, b.Release, "/sys/fs/fuse/connections/")
		if filepath.Dir(b.File) != b.Mount || !strings.HasSuffix(b.File, "/silent") {
			t.Errorf("file %q, mount %q", b.File, b.Mount)
		}
		if b.Process != os.Getpid() && !unixBefore(t, 6, 16) {
			t.Errorf("server is process %d, want %d", b.Process, os.Getpid())
		}
	})
}

// unixBefore says whether the running kernel is older.
func unixBefore(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	num := func(s string) (n int) {
		for _, c := range s {
			if c < '0' || c > '9' {
				break
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	return num(parts[0]) < major || num(parts[0]) == major && num(parts[1]) < minor
}

func TestBlockerNamesTheFrozenFileSystem(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		dir := frozenFileSystem(t)
		writer := freezertest.Start(t, "touch", filepath.Join(dir, "x"))
		pid := writer.Process.Pid
		var c freezer.Cause
		freezertest.Eventually(t, "the writer waits", func() bool {
			c, _ = freezer.Explain(pid)
			return c.Mount == dir
		})
		wantWords(t, c.Reason, dir, "/dev/loop", "frozen")
		wantWords(t, c.Release, "fsfreeze --unfreeze "+dir)
		must(t, g.Add(pid))
		if g.Backend() == freezer.Cgroup1 {
			return // counts it as frozen
		}
		if b := blockersOf(t, g); len(b) != 1 || b[0].PID != pid || b[0].Mount != dir {
			t.Fatalf("got %+v", b)
		}
	})
}

// frozenFileSystem mounts a file system on a loop device and freezes it until
// the test ends.
func frozenFileSystem(t *testing.T) (dir string) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	image := filepath.Join(t.TempDir(), "image")
	dir = t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 8<<20))
	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no file system to freeze: %v: %s", err, out)
		}
	}
	forget := freezertest.OnUnmount(dir)
	t.Cleanup(func() {
		must(t, unix.Unmount(dir, unix.MNT_DETACH)) // the writer is killed only afterwards
		forget()
	})
	root, err := os.Open(dir)
	must(t, err)
	const fiFreeze, fiThaw = 0xC0045877, 0xC0045878 // ioctl(2) of linux/fs.h
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), fiFreeze, 0); errno != 0 {
		root.Close()
		t.Skipf("it cannot be frozen: %v", errno)
	}
	t.Cleanup(func() {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), fiThaw, 0)
		if errno != 0 {
			t.Errorf("thaw of the file system: %v", errno)
		}
		root.Close()
	})
	return dir
}

func TestVforkParentAndItsChildAreNamed(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to vfork with")
	}
	// The child stays between vfork and exec: it opens a FIFO that nobody writes.
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	parent := freezertest.Start(t, python, "-c",
		`import os, sys; os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)])`, fifo)
	t.Cleanup(func() { // lets the child go on
		if f, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	})
	var c freezer.Cause
	freezertest.Eventually(t, "the parent waits in vfork", func() bool {
		c, _ = freezer.Explain(parent.Process.Pid)
		return strings.Contains(c.Reason, "vfork") && c.Process != 0
	})
	wantWords(t, c.Reason, "python3", "process")
}

func TestDebuggerOfAStoppedTaskIsNamed(t *testing.T) {
	gdb, err := exec.LookPath("gdb")
	if err != nil {
		t.Skip("no gdb")
	}
	pid := freezertest.Sleeper(t)
	debugger := exec.Command(gdb, "-q", "-nx", "-p", "0")
	debugger.Args[4] = fmt.Sprint(pid)
	in, err := debugger.StdinPipe() // it stays attached until this ends
	must(t, err)
	t.Cleanup(func() { in.Close() })
	freezertest.Run(t, debugger)
	var c freezer.Cause
	freezertest.Eventually(t, "gdb has stopped it", func() bool {
		c, _ = freezer.Explain(pid)
		return strings.Contains(c.Reason, "debugger")
	})
	wantWords(t, c.Reason, "gdb")
	if c.Process != debugger.Process.Pid {
		t.Errorf("debugger is process %d, want %d", c.Process, debugger.Process.Pid)
	}
}
