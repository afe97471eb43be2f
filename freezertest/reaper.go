package freezertest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// reaperEnv makes a test binary the reaper of the one that started it, whose PID
// it is. Clean-up functions do not run when a test times out, panics or is killed;
// the reaper then does their work. It learns through its standard input what
// there is to clean.
const reaperEnv = "FREEZERTEST_REAPER"

// Main runs the tests, and does not return. It belongs into TestMain. m is a
// *testing.M, or what runs one.
func Main(m interface{ Run() int }) {
	if pid, err := strconv.Atoi(os.Getenv(reaperEnv)); err == nil {
		reap(pid)
		os.Exit(0)
	}
	if os.Getenv(workerEnv) != "" {
		work()
	}
	reaper.usesMain = true
	os.Exit(m.Run())
}

var reaper struct {
	usesMain bool // set before the first test: a binary without Main would run its tests instead of reaping

	once sync.Once
	mu   sync.Mutex
	in   io.Writer
}

func onDeath(kind, what string) { tell("+" + kind + " " + what) }
func forget(kind, what string)  { tell("-" + kind + " " + what) }

func tell(line string) {
	reaper.once.Do(startReaper)
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	if reaper.in != nil {
		fmt.Fprintln(reaper.in, line)
	}
}

func startReaper() {
	exe, err := os.Executable()
	if err != nil || !reaper.usesMain || !strings.HasSuffix(exe, ".test") {
		return // nobody would understand the variable
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), reaperEnv+"="+strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ^C is not for it
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "freezertest: no reaper:", err)
		return
	}
	reaper.in = in
	go func() { _ = cmd.Wait() }()
}

// reap cleans up when the process of that PID is dead. Mounts come first: some
// processes cannot end before, nor some trees.
func reap(pid int) {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	left := map[string]bool{}
	var order []string
	for s := bufio.NewScanner(&lifeline{pid: pid}); s.Scan(); {
		line := s.Text()
		if len(line) < 2 {
			continue
		}
		if line[0] == '+' {
			order = append(order, line[1:])
		}
		left[line[1:]] = line[0] == '+'
	}
	for _, kind := range []string{"mount", "process", "tree"} {
		for _, job := range order {
			if what, ok := strings.CutPrefix(job, kind+" "); ok && left[job] {
				fmt.Fprintln(os.Stderr, "freezertest: cleaning up", job)
				clean(kind, what)
			}
		}
	}
}

// A lifeline reads standard input, which ends when it is closed or when the
// process of that PID is dead. The latter is not the same: a child that it forked
// into a frozen group keeps all its descriptors open until the thaw.
type lifeline struct {
	pid  int
	dead int  // descriptor that tells, -1 where there is none
	gone bool // it is dead already
}

func (l *lifeline) Read(buf []byte) (int, error) {
	if l.dead == 0 {
		var err error
		if l.dead, err = unix.PidfdOpen(l.pid, 0); err != nil {
			l.dead, l.gone = -1, err == unix.ESRCH
		}
	}
	fds := []unix.PollFd{{Fd: 0, Events: unix.POLLIN}, {Fd: int32(l.dead), Events: unix.POLLIN}}
	timeout := -1
	if l.gone {
		timeout = 0
	}
	for {
		if _, err := unix.Poll(fds, timeout); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, err
		}
		if fds[0].Revents == 0 { // all that it said is read
			return 0, io.EOF
		}
		n, err := unix.Read(0, buf)
		if n == 0 && err == nil {
			err = io.EOF
		}
		return max(n, 0), err
	}
}

func clean(kind, what string) {
	switch kind {
	case "mount":
		_ = unmount(what)
	case "process":
		if pid, err := strconv.Atoi(what); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	case "tree":
		f, err := freezer.Open(freezer.WithRoot(what))
		if err == nil {
			err = RemoveTree(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "freezertest:", err)
		}
	}
}

// unmount takes a mount away from whoever uses it: who waits for the server of a
// FUSE mount gets an error (MNT_FORCE).
func unmount(dir string) error {
	return syscall.Unmount(dir, syscall.MNT_FORCE|syscall.MNT_DETACH)
}
