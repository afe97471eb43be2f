//go:build amd64

package checkpoint

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// subjectEnv makes this test binary a subject, in the state that it names.
const subjectEnv = "CHECKPOINT_TEST_SUBJECT"

var goSubjects = map[string]func(){"runtime": goRuntime}

func goSubject(t *testing.T, state string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	if exe, err := os.Executable(); err == nil {
		cmd = exec.Command(exe)
	}
	cmd.Env = append(os.Environ(), subjectEnv+"="+state)
	return cmd
}

func fail(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}

// goRuntime has goroutines in all kinds of waits.
func goRuntime() {
	wake := make(chan os.Signal, 1)
	signal.Notify(wake, unix.SIGUSR1)
	r, w, err := os.Pipe()
	if err != nil {
		fail("%v", err)
	}
	var beats, spins atomic.Int64
	go func() {
		for range time.Tick(time.Millisecond) {
			beats.Add(1)
		}
	}()
	go func() {
		for {
			spins.Add(1)
		}
	}()
	echoed := make(chan string)
	go func() {
		buf := make([]byte, 100)
		for {
			n, err := r.Read(buf) // by the poller
			if err != nil {
				fail("%v", err)
			}
			echoed <- string(buf[:n])
		}
	}()
	table := map[int]string{}
	for i := range 20000 {
		table[i] = strings.Repeat("x", i%50)
	}
	fmt.Println("ready")
	<-wake
	for i, v := range table {
		if len(v) != i%50 {
			fail("table[%d] is %q", i, v)
		}
	}
	if _, err := w.WriteString("hello"); err != nil {
		fail("%v", err)
	}
	if got := <-echoed; got != "hello" {
		fail("the pipe gave %q", got)
	}
	b, s := beats.Load(), spins.Load()
	for range 200 {
		time.Sleep(10 * time.Millisecond)
		if beats.Load() > b && spins.Load() > s {
			return
		}
	}
	fail("the timer or the spinner stands still")
}

func TestAGoProgramIsCarried(t *testing.T) {
	s := start(t, goSubject(t, "runtime"))
	goesOn(t, s, s.restore(t, s.save(t, Killed)))
}

func TestAGoProgramGoesOnUnharmed(t *testing.T) {
	s := start(t, goSubject(t, "runtime"))
	s.save(t, Running)
	lives(t, s)
}
