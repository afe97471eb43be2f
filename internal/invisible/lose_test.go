//go:build amd64

package invisible_test

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// beTracer freezes and thaws the group invisibly, and dies at its Nth ptrace
// call, before it when N is negative. Its argument is GROUP-DIRECTORY,N.
func beTracer(arg string) {
	dir, n, _ := strings.Cut(arg, ",")
	last, _ := strconv.Atoi(n)
	made := 0
	ptrace.OnCall = func(before bool) {
		if before {
			made++
		}
		if before && made == -last || !before && made == last {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
	}
	text, _ := kernfs.ReadFile(dir + "/cgroup.procs")
	var tids []int
	for _, pid := range kernfs.ParseIDs(text) {
		tids = append(tids, proc.Threads(pid)...)
	}
	s := invisible.Prepare(tids)
	set := func(state string) error { return kernfs.WriteFile(dir+"/cgroup.freeze", state) }
	_ = set("1")
	for text := []byte(nil); !strings.Contains(string(text), "frozen 1"); {
		text, _ = kernfs.ReadFile(dir + "/cgroup.events")
	}
	fmt.Println("frozen")
	_ = s.Thaw(context.Background(), tids, func() error { return set("0") })
	_ = s.Wait(context.Background())
	os.Exit(0)
}

// lose runs a tracer on the subject's group until it has died, has the group
// thawed by others, and checks that the subject goes on with its loop as if
// nothing had been.
func lose(t *testing.T, s *subject, dir string, die func(tracer *exec.Cmd)) (died bool) {
	t.Helper()
	tracer := exec.Command("/proc/self/exe")
	tracer.Env = append(os.Environ(), tracerEnv+"="+dir)
	die(tracer)
	err := tracer.Wait()
	dir, _, _ = strings.Cut(dir, ",")
	if err := kernfs.WriteFile(dir+"/cgroup.freeze", "0"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		next := make(chan [2]int, 1)
		go func() {
			_ = s.line(t)
			result, took := s.result(t)
			next <- [2]int{result, int(took.Milliseconds())}
		}()
		select {
		case r := <-next:
			if r[0] != 0 && r[0] != -int(unix.EINTR) {
				t.Fatal("a call returned", r[0])
			}
		case <-time.After(20 * time.Second):
			stat, _ := proc.ReadStat(s.tid)
			t.Fatalf("the subject does not go on: state %c, traced by %s", stat.State, proc.Status(s.tid, "TracerPid"))
		}
	}
	if by := proc.Status(s.tid, "TracerPid"); by != "0" {
		t.Fatal("still traced by", by)
	}
	return err != nil
}

func startLoop(t *testing.T) (*subject, string) {
	g := group(t)
	s := start(t, g, "loop", 10*time.Millisecond, 1)
	_, _ = s.result(t)
	return s, g.Dir()
}

func TestATracerThatDiesAtAnyOfItsCallsHarmsNoTask(t *testing.T) {
	s, dir := startLoop(t)
	deaths := 0
	for n := -most; n <= most; n++ {
		if lose(t, s, fmt.Sprintf("%s,%d", dir, n), func(tracer *exec.Cmd) {
			if err := tracer.Start(); err != nil {
				t.Fatal(err)
			}
		}) {
			deaths++
		}
	}
	// Some calls are not made each time: it depends on what the task just did.
	if deaths < most {
		t.Errorf("only %d tracers died", deaths)
	}
}

// most is how many ptrace calls a tracer makes for one task that is in a call
// with a timeout, to be frozen, thawed and interrupted.
const most = 14

func TestATracerThatIsKilledAtARandomMomentHarmsNoTask(t *testing.T) {
	s, dir := startLoop(t)
	tries := 60
	if os.Getenv("FREEZER_LONG") != "" {
		tries = 500
	}
	for range tries {
		lose(t, s, dir+",0", func(tracer *exec.Cmd) {
			out, _ := tracer.StdoutPipe()
			freezertest.Run(t, tracer)
			_, _ = out.Read(make([]byte, 16)) // it has frozen the group
			time.Sleep(time.Duration(rand.Intn(5000)) * time.Microsecond)
			_ = tracer.Process.Kill()
		})
	}
}
