package freezer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// watch collects the events of a watch until the test ends.
func watch(t *testing.T, f *freezer.Freezer, groups ...*freezer.Group) (seen func(want string) func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var events []string
	var done sync.WaitGroup
	done.Go(func() {
		for e, err := range f.Watch(ctx, groups...) {
			if err != nil {
				t.Errorf("watch: %v", err)
				return
			}
			text := e.Group + " " + e.Kind
			switch {
			case e.States != nil:
				text += " " + e.States.Effective.String()
			case e.Blocker != nil:
				text += " " + strconv.Itoa(e.Blocker.PID)
			case e.PID != 0:
				text += " " + strconv.Itoa(e.PID)
			}
			mu.Lock()
			events = append(events, text)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		if t.Failed() {
			t.Logf("events: %q", events)
		}
	})
	// Each event is looked for after the one that was found before.
	at := 0
	return func(want string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			for i := at; i < len(events); i++ {
				if events[i] == want {
					at = i + 1
					return true
				}
			}
			return false
		}
	}
}

func TestWatchOfTheTreeSeesWhatHappens(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		f := freezerOf(t, g)
		seen := watch(t, f)
		wait := func(event string) {
			t.Helper()
			freezertest.Eventually(t, event, seen(event))
		}
		wait("g state THAWED")
		p := freezertest.Start(t, "sleep", "1000")
		pid := strconv.Itoa(p.Process.Pid)
		must(t, g.Add(p.Process.Pid))
		wait("g arrived " + pid)
		must(t, g.Freeze(t.Context()))
		wait("g state FROZEN")
		_, err := f.Create("g/child")
		must(t, err)
		wait("g/child created")
		wait("g/child state FROZEN")
		must(t, g.Thaw())
		wait("g state THAWED")
		if os.Geteuid() == 0 {
			must(t, p.Process.Kill())
			_ = p.Wait()
			wait("g exited " + pid)
		}
		child, err := f.Group("g/child")
		must(t, err)
		must(t, child.Remove())
		wait("g/child removed")
		h, err := f.Create("h")
		must(t, err)
		wait("h created")
		must(t, h.Remove())
		wait("h removed")
	})
}

func TestWatchOfANamedGroupSeesForksExitsAndMovesOut(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		f := freezerOf(t, g)
		seen := watch(t, f, g)
		wait := func(event string) {
			t.Helper()
			freezertest.Eventually(t, event, seen(event))
		}
		shell := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
		reader, writer, err := os.Pipe()
		must(t, err)
		shell.Stdout = writer
		// It forks only when it is in the group.
		go_, goWriter, err := os.Pipe()
		must(t, err)
		shell.Args[2] = "read go; " + shell.Args[2]
		shell.Stdin = go_
		freezertest.Run(t, shell)
		writer.Close()
		must(t, g.Add(shell.Process.Pid))
		wait(fmt.Sprint("g arrived ", shell.Process.Pid))
		_, err = goWriter.WriteString("go\n")
		must(t, err)
		var child int
		_, err = fmt.Fscan(reader, &child)
		must(t, err)
		wait(fmt.Sprint("g arrived ", child))
		must(t, unix.Kill(child, unix.SIGKILL))
		wait(fmt.Sprint("g exited ", child))
	})
}

func TestWatchReportsBlockers(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, _ := freezertest.Blocker(t)
		must(t, g.Add(pid))
		seen := watch(t, freezerOf(t, g), g)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := g.Freeze(ctx); freezer.Errno(err) != unix.EBUSY {
			t.Fatalf("got %v, want EBUSY", err)
		}
		freezertest.Eventually(t, "FREEZING is reported", seen("g state FREEZING"))
		freezertest.Eventually(t, "the blocker is reported", seen(fmt.Sprint("g blocker ", pid)))
		must(t, g.Thaw())
		freezertest.Eventually(t, "THAWED is reported", seen("g state THAWED"))
	})
}

func BenchmarkWatchIdle(b *testing.B) {
	const groups = 10000
	for _, backend := range freezertest.Backends {
		b.Run(backend, func(b *testing.B) {
			f := freezertest.Tree(b, backend)
			for i := range groups {
				if _, err := f.Create(fmt.Sprint("g", i)); err != nil {
					b.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(b.Context())
			ready, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				n := 0
				for _, err := range f.Watch(ctx) {
					if err != nil {
						b.Error(err)
						break
					}
					if n++; n == groups {
						close(ready)
					}
				}
			}()
			select {
			case <-ready:
			case <-done:
				b.FailNow()
			}
			debug.FreeOSMemory() // of what was there before: that would go on beside
			const idle = 5 * time.Second
			time.Sleep(idle / 5)
			before := cpuTime()
			time.Sleep(idle)
			b.ReportMetric(float64(cpuTime()-before)/1e6*float64(time.Minute/idle), "cpu-ms/min")
			cancel()
			<-done
		})
	}
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
