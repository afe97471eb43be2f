package freezertest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
)

// reaperEnv makes a test binary the reaper of the one that started it. Clean-up
// functions do not run when a test times out, panics or is killed; the reaper
// then does their work. It learns through its standard input what there is to
// clean, and that the other is dead when that ends.
const reaperEnv = "FREEZERTEST_REAPER"

// Main runs the tests. It belongs into TestMain.
func Main(m *testing.M) {
	if os.Getenv(reaperEnv) != "" {
		reap(os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var reaper struct {
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
	if err != nil || !strings.HasSuffix(exe, ".test") {
		return // not a test binary: nobody would understand the variable
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), reaperEnv+"=1")
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

func reap(in io.Reader) {
	left := map[string]bool{}
	var order []string
	for s := bufio.NewScanner(in); s.Scan(); {
		line := s.Text()
		if len(line) < 2 {
			continue
		}
		if line[0] == '+' {
			order = append(order, line[1:])
		}
		left[line[1:]] = line[0] == '+'
	}
	for _, job := range order {
		if kind, what, _ := strings.Cut(job, " "); left[job] {
			fmt.Fprintln(os.Stderr, "freezertest: cleaning up", job)
			clean(kind, what)
		}
	}
}

func clean(kind, what string) {
	switch kind {
	case "mount":
		_ = syscall.Unmount(what, syscall.MNT_DETACH)
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
