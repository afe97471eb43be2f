package tracer

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// A floor is the bare way to hold tasks, in C.
type floor struct {
	in  io.Writer
	out *bufio.Reader
}

func newFloor(b *testing.B) *floor {
	cmd := exec.Command(compiled(b, "floor"))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	run(b, cmd)
	precedeAs(cmd.Process.Pid)
	return &floor{in, bufio.NewReader(out)}
}

func (f *floor) do(b *testing.B, command string) time.Duration {
	fmt.Fprintln(f.in, command)
	line, err := f.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(line))
	return time.Duration(n)
}

func BenchmarkFreeze(b *testing.B) {
	for _, kind := range []struct {
		name, mode string
		n          int
	}{{"1process", "processes", 1}, {"1000processes", "processes", 1000}, {"1000threads", "threads", 1000}, {"16busy", "busy", 16}} {
		b.Run(kind.name, func(b *testing.B) { benchmarkFreeze(b, kind.mode, kind.n) })
	}
}

// precedeAs gives a process the precedence that the tracer has, so that both are
// measured alike on a busy machine.
func precedeAs(pid int) {
	for _, tid := range proc.Threads(pid) {
		_ = unix.Setpriority(unix.PRIO_PROCESS, tid, -10)
	}
}

func benchmarkFreeze(b *testing.B, mode string, n int) {
	precedeAs(os.Getpid())
	h := place(b)
	g := group(b, h, "t/a")
	c := newCounter(b)
	cmd := start(b, "nice", "-n", "10", compiled(b, "storm"), mode, c.path, fmt.Sprint(n)) // which makes it 0 again
	var tids []int
	eventually(b, "all are there", func() bool {
		h.addAll(b, g, cmd.Process.Pid)
		tids, _ = h.Threads(g.dir.Path())
		return len(tids) == n && c.n.Load() > 0
	})
	words := strings.Trim(fmt.Sprint(tids), "[]")
	f := newFloor(b)
	var freezes, thaws, floors, lets []time.Duration
	freeze(b, g)
	thaw(b, g)
	for b.Loop() {
		settle(tids)
		floors = append(floors, f.do(b, "seize "+words))
		lets = append(lets, f.do(b, "detach"))
		settle(tids)
		begun := time.Now()
		if err := g.SetFreezing(true); err != nil {
			b.Fatal(err)
		}
		for {
			frozen, err := g.Frozen()
			if err != nil {
				b.Fatal(err)
			}
			if frozen {
				break
			}
		}
		freezes = append(freezes, time.Since(begun))
		begun = time.Now()
		thaw(b, g)
		thaws = append(thaws, time.Since(begun))
	}
	report := func(name string, ours, floor []time.Duration) {
		slices.Sort(ours)
		slices.Sort(floor)
		us, them := ours[len(ours)/2], floor[len(floor)/2]
		b.ReportMetric(float64(us.Microseconds())/1000, name+"-ms")
		b.ReportMetric(float64(them.Microseconds())/1000, name+"-floor-ms")
		b.ReportMetric(float64(us)/float64(them), name+"-ratio")
	}
	b.ReportMetric(0, "ns/op")
	report("freeze", freezes, floors)
	report("thaw", thaws, lets)
}

// addAll adds a process and its children.
func (h *Hierarchy) addAll(b *testing.B, g *Group, pid int) {
	add(b, g, pid)
	for _, child := range children(pid) {
		add(b, g, child)
	}
}

// settle waits until no task is held.
func settle(tids []int) {
	for _, tid := range tids {
		for {
			if s, err := proc.ReadStat(tid); err != nil || s.State != 't' {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(5 * time.Millisecond)
}
