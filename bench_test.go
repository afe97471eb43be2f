package freezer_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// A load is what is frozen and thawed.
type load struct {
	name    string
	groups  int
	waiting int           // processes in each group that wait for input: they must wake up to be frozen
	napping int           // processes that sleep for a time: cgroup1 freezes them where they are
	busy    int           // threads of one process
	rounds  int           // of measuring
	settle  time.Duration // until all do again what they did before
	known   time.Duration // until FROZEN, as measured by hand on a machine with 2 CPUs
}

var loads = []load{
	{"1-waiting", 1, 1, 0, 0, 150, 3 * time.Millisecond, 50 * time.Microsecond},
	{"1-napping", 1, 0, 1, 0, 150, 3 * time.Millisecond, 50 * time.Microsecond},
	{"100-waiting", 1, 100, 0, 0, 100, 5 * time.Millisecond, 0},
	{"1000-waiting", 1, 1000, 0, 0, 25, 30 * time.Millisecond, 0},
	{"2-busy", 1, 0, 0, 2, 150, 3 * time.Millisecond, 200 * time.Microsecond},
	{"16-busy", 1, 0, 0, 16, 40, 5 * time.Millisecond, 0},
	{"100-groups-of-10", 100, 10, 0, 0, 20, 30 * time.Millisecond, 0},
	{"1000-groups", 1000, 1, 0, 0, 10, 30 * time.Millisecond, 42 * time.Millisecond},
}

// BenchmarkFreeze compares Freeze with the best of the bare kernel ways.
func BenchmarkFreeze(b *testing.B) {
	each(b, func(b *testing.B, gang freezer.Gang, l load) {
		k := open(b, gang)
		var ways []freezertest.Way
		add := func(name string, freeze func() error) {
			ways = append(ways, freezertest.Way{
				Name:   name,
				Before: func() error { time.Sleep(l.settle); return nil },
				Do:     freeze,
				After:  func() error { time.Sleep(time.Millisecond); return k.thaw() },
			})
		}
		for name, pause := range k.pauses() { // ours in between, lest the bare ones share all the caches
			add("Freeze", func() error { return gang.Freeze(b.Context()) })
			add(name, func() error { return k.freeze(pause) })
		}
		var ours []time.Duration
		var bare [][]time.Duration
		for i, took := range freezertest.Interleave(b, max(b.N, l.rounds), ways) {
			if ways[i].Name == "Freeze" {
				ours = append(ours, took...)
				continue
			}
			bare = append(bare, took)
			b.Logf("%-8s p50 %v, p99 %v", ways[i].Name, freezertest.Percentile(took, 50), freezertest.Percentile(took, 99))
		}
		floor := freezertest.ReportFloor(b, ours, bare)
		if l.known > 0 {
			b.ReportMetric(float64(floor)/float64(l.known), "floor-x-known")
		}
	})
}

// BenchmarkThaw compares Thaw with a bare write.
func BenchmarkThaw(b *testing.B) {
	each(b, func(b *testing.B, gang freezer.Gang, l load) {
		bare := open(b, gang)
		frozen := func() error {
			time.Sleep(l.settle)
			defer time.Sleep(time.Millisecond)
			return bare.freeze(nap)
		}
		took := freezertest.Interleave(b, max(b.N, l.rounds), []freezertest.Way{
			{Name: "Thaw", Do: func() error { return gang.Thaw() }, Before: frozen},
			{Name: "write", Do: bare.thaw, Before: frozen},
		})
		freezertest.ReportFloor(b, took[0], took[1:])
	})
}

// BenchmarkHold compares a freeze under a named hold with a plain one, and both
// with their thaws.
func BenchmarkHold(b *testing.B) {
	only(b, loads[:1], func(b *testing.B, gang freezer.Gang, l load) {
		g := gang[0]
		pause := func() error { time.Sleep(l.settle); return nil }
		freeze := func() error { return g.Freeze(b.Context(), freezer.By("bench"), freezer.Why("to see")) }
		thaw := func() error { return g.Thaw(freezer.HeldBy("bench")) }
		plain := func() error { return g.Freeze(b.Context()) }
		plainThaw := func() error { return g.Thaw() }
		both := func(one, other func() error) func() error {
			return func() error { return errors.Join(one(), other()) }
		}
		took := freezertest.Interleave(b, max(b.N, l.rounds), []freezertest.Way{
			{Before: pause, Do: freeze, After: both(thaw, pause)},
			{Before: pause, Do: plain, After: both(plainThaw, pause)},
			{Before: pause, Do: both(freeze, thaw), After: pause},
			{Before: pause, Do: both(plain, plainThaw), After: pause},
		})
		more := func(ways [][]time.Duration) float64 {
			return float64(freezertest.Percentile(ways[0], 50) - freezertest.Percentile(ways[1], 50))
		}
		freezertest.ReportFloor(b, took[0], took[1:2])
		b.ReportMetric(more(took), "more-p50-ns")
		b.ReportMetric(more(took[2:]), "more-with-thaw-p50-ns")
	})
}

// BenchmarkEmpty freezes and thaws an empty group without pause: it shows what
// this package itself costs.
func BenchmarkEmpty(b *testing.B) {
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		b.Run(backend, func(b *testing.B) {
			g, err := freezertest.Tree(b, backend).Create("g")
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := errors.Join(g.Freeze(b.Context()), g.Thaw()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// each calls measure with each load on each backend.
func each(b *testing.B, measure func(b *testing.B, gang freezer.Gang, l load)) {
	only(b, loads, measure)
}

// only is each for some of the loads.
func only(b *testing.B, loads []load, measure func(b *testing.B, gang freezer.Gang, l load)) {
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		for _, l := range loads {
			b.Run(backend+"/"+l.name, func(b *testing.B) {
				f := freezertest.Tree(b, backend)
				input, output, err := os.Pipe()
				if err != nil {
					b.Fatal(err)
				}
				defer input.Close()
				defer output.Close()
				var gang freezer.Gang
				for i := range l.groups {
					g, err := f.Create("g" + strconv.Itoa(i))
					if err != nil {
						b.Fatal(err)
					}
					l.fill(b, g, input)
					gang = append(gang, g)
				}
				if err := errors.Join(gang.Freeze(b.Context()), gang.Thaw()); err != nil { // which also warms cgroup1
					b.Fatal(err)
				}
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				measure(b, gang, l)
			})
		}
	}
}

// fill starts the tasks of one group. Nothing ever comes from input.
func (l load) fill(b *testing.B, g *freezer.Group, input *os.File) {
	add := func(cmd *exec.Cmd) {
		freezertest.Run(b, cmd)
		if err := g.Add(cmd.Process.Pid); err != nil {
			b.Fatal(err)
		}
	}
	for range l.waiting {
		cmd := exec.Command("cat")
		cmd.Stdin = input
		add(cmd)
	}
	for range l.napping {
		add(exec.Command("sleep", "1000"))
	}
	if l.busy > 0 {
		add(busy(l.busy))
	}
}

// busyEnv makes this test binary a process with that many busy threads.
const busyEnv = "FREEZER_BENCH_BUSY"

func init() {
	n, _ := strconv.Atoi(os.Getenv(busyEnv))
	for i := range n {
		spin := func() {
			runtime.LockOSThread()
			for n := uint64(0); ; {
				n++
			}
		}
		if i == n-1 {
			spin()
		}
		go spin()
	}
}

func busy(threads int) *exec.Cmd {
	n := strconv.Itoa(threads)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), busyEnv+"="+n, "GOMAXPROCS="+n, "GODEBUG=asyncpreemptoff=1")
	return cmd
}

// kernel is the freezers of some groups as a program in a hurry would use
// them: control files opened beforehand, and nothing but system calls.
type kernel struct {
	state, events   []int // descriptors
	on, off, frozen []byte
}

func open(b *testing.B, gang freezer.Gang) kernel {
	k := kernel{on: []byte("FROZEN"), off: []byte("THAWED"), frozen: []byte("FROZEN")}
	state, events := "/freezer.state", "/freezer.state"
	if gang[0].Backend() == freezer.Cgroup2 {
		k = kernel{on: []byte("1"), off: []byte("0"), frozen: []byte("frozen 1")}
		state, events = "/cgroup.freeze", "/cgroup.events"
	}
	openFile := func(path string, flag int) int {
		fd, err := unix.Open(path, flag|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(path, err)
		}
		b.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	for _, g := range gang {
		k.state = append(k.state, openFile(g.Dir()+state, unix.O_WRONLY))
		k.events = append(k.events, openFile(g.Dir()+events, unix.O_RDONLY))
	}
	return k
}

func (k kernel) thaw() error { return k.write(k.off) }

func (k kernel) write(word []byte) error {
	for _, fd := range k.state {
		if _, err := unix.Pwrite(fd, word, 0); err != nil {
			return err
		}
	}
	return nil
}

// freeze writes to all, then reads one after the other until it is FROZEN,
// with a pause in between.
func (k kernel) freeze(pause func(k kernel, group int)) error {
	if err := k.write(k.on); err != nil {
		return err
	}
	var buf [128]byte
	for i, fd := range k.events {
		for {
			n, err := unix.Pread(fd, buf[:], 0)
			if err != nil {
				return err
			}
			if bytes.Contains(buf[:n], k.frozen) {
				break
			}
			pause(k, i)
		}
	}
	return nil
}

// pauses are the ways to wait between two readings.
func (k kernel) pauses() map[string]func(k kernel, group int) {
	all := map[string]func(kernel, int){"spin": spin, "yield": yield, "nap": nap}
	if len(k.on) == 1 {
		all["poll"] = poll
	} else {
		all["rewrite"] = rewrite
	}
	return all
}

func spin(kernel, int)  {}
func yield(kernel, int) { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
func nap(kernel, int)   { _ = unix.Nanosleep(&unix.Timespec{Nsec: 20_000}, nil) }

// poll is for cgroup2, whose events can be waited for.
func poll(k kernel, group int) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(k.events[group]), Events: unix.POLLPRI}}, 100)
}

// rewrite asks again, which is what a cgroup1 group needs that hangs.
func rewrite(k kernel, group int) {
	nap(k, group)
	_, _ = unix.Pwrite(k.state[group], k.on, 0)
}
