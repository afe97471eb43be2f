package freezertest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// NewWorld is a World of real processes.
func NewWorld(tb testing.TB) World {
	return &world{tb: tb, workers: map[int]*worker{}, counts: map[int]*atomic.Uint64{}}
}

type world struct {
	tb      testing.TB
	mu      sync.Mutex
	workers map[int]*worker        // by PID
	counts  map[int]*atomic.Uint64 // by PID or TID
}

// A worker is this test binary, started once more to count; see work.
type worker struct {
	mu      sync.Mutex
	in      io.Writer
	out     *bufio.Reader
	counts  *[slots]atomic.Uint64
	threads int
}

var _ ThreadWorld = (*world)(nil)

func (w *world) Sleeper() int { return Sleeper(w.tb) }

func (w *world) Counter() int {
	w.tb.Helper()
	cmd, err := workerCommand()
	if err != nil {
		w.tb.Skip(err)
	}
	memory, counts := sharedCounts(w.tb)
	defer memory.Close()
	cmd.ExtraFiles = []*os.File{memory}
	in, err := cmd.StdinPipe()
	if err != nil {
		w.tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.tb.Fatal(err)
	}
	Run(w.tb, cmd)
	w.mu.Lock()
	defer w.mu.Unlock()
	pid := cmd.Process.Pid
	w.workers[pid] = &worker{in: in, out: bufio.NewReader(out), counts: counts}
	w.counts[pid] = &counts[0]
	return pid
}

// sharedCounts makes memory that a worker and the test both see. It stays mapped
// until the test binary ends.
func sharedCounts(tb testing.TB) (*os.File, *[slots]atomic.Uint64) {
	tb.Helper()
	fd, err := unix.MemfdCreate("counts", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Ftruncate(fd, slots*8); err != nil {
		tb.Fatal(err)
	}
	counts, err := mapCounts(fd)
	if err != nil {
		tb.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "counts"), counts
}

func mapCounts(fd int) (*[slots]atomic.Uint64, error) {
	mem, err := unix.Mmap(fd, 0, slots*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*[slots]atomic.Uint64)(unsafe.Pointer(&mem[0])), nil
}

func (w *world) Count(id int) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[id].Load()
}

// ask sends a worker a word and returns the number that it answers.
func (w *world) ask(pid int, word string) int {
	w.tb.Helper()
	w.mu.Lock()
	worker := w.workers[pid]
	w.mu.Unlock()
	worker.mu.Lock()
	defer worker.mu.Unlock()
	fmt.Fprintln(worker.in, word)
	line, err := worker.out.ReadString('\n')
	if err != nil {
		w.tb.Fatalf("worker %d: %v", pid, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		w.tb.Fatalf("worker %d said %q to %q", pid, line, word)
	}
	return n
}

func (w *world) Fork(pid int) int { return w.ask(pid, "fork") }

func (w *world) Thread(pid int) int {
	tid := w.ask(pid, "thread")
	w.mu.Lock()
	defer w.mu.Unlock()
	worker := w.workers[pid]
	worker.threads++
	w.counts[tid] = &worker.counts[worker.threads]
	return tid
}

func (w *world) Spawn(pid int) (stop func()) {
	w.ask(pid, "spawn")
	return func() { w.ask(pid, "quiet") }
}

func (w *world) signal(pid int, sig syscall.Signal) {
	w.tb.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		w.tb.Fatalf("%v to process %d: %v", sig, pid, err)
	}
}

func (w *world) Stop(pid int)        { w.signal(pid, syscall.SIGSTOP) }
func (w *world) Continue(pid int)    { w.signal(pid, syscall.SIGCONT) }
func (w *world) KillProcess(pid int) { w.signal(pid, syscall.SIGKILL) }

func (w *world) State(pid int) byte {
	s, err := proc.ReadStat(pid)
	if err != nil || s.State == 'X' {
		return 'Z'
	}
	return s.State
}

func (w *world) Blocker() (pid int, release func()) { return Blocker(w.tb) }

// Trace stops a process by ptrace. The thread that attached must detach, too.
func (w *world) Trace(pid int) (detach func()) {
	w.tb.Helper()
	attached, leave, left := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(left)
		err := syscall.PtraceAttach(pid)
		if err == nil {
			var status syscall.WaitStatus
			_, err = syscall.Wait4(pid, &status, syscall.WALL, nil)
		}
		attached <- err
		if err == nil {
			<-leave
			_ = syscall.PtraceDetach(pid)
		}
	}()
	if err := <-attached; err != nil {
		w.tb.Skipf("no ptrace here: %v", err)
	}
	detach = sync.OnceFunc(func() { close(leave); <-left })
	w.tb.Cleanup(detach)
	return detach
}

// WithoutDebuggers is a world for the backend Ptrace, to which tasks that are traced
// already are blockers.
func WithoutDebuggers(tb testing.TB, w World) World {
	return untraced{w, w.(ThreadWorld), tb}
}

type untraced struct {
	World
	threads
	tb testing.TB
}

type threads = ThreadWorld

func (w untraced) Trace(int) func() {
	w.tb.Skip("this backend cannot hold what is traced already")
	return nil
}

func (w *world) KernelThread() int {
	for _, pid := range proc.All() {
		if s, err := proc.ReadStat(pid); err == nil && s.KernelThread() {
			return pid
		}
	}
	w.tb.Skip("no kernel thread can be seen here")
	return 0
}

// slots is how many counts a worker has: one for the process, then one for each thread.
const slots = 64

// workerEnv makes a test binary a worker.
const workerEnv = "FREEZERTEST_WORKER"

func workerCommand() (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil || !strings.HasSuffix(exe, ".test") {
		return nil, fmt.Errorf("no worker: %s is no test binary", exe)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), workerEnv+"=1", "GODEBUG=asyncpreemptoff=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// A worker's first thread, whose TID is the PID, is none of those that count.
// Each of these runs without help of the others: some may be frozen and hold what
// Go's scheduler or garbage collector wants. Nor are they preempted (workerCommand
// sees to it): a goroutine that is locked to its thread goes on only when another
// thread hands it the processor back.
func init() {
	if os.Getenv(workerEnv) != "" {
		runtime.LockOSThread()
		runtime.GOMAXPROCS(slots + 8)
		debug.SetGCPercent(-1)
	}
}

// work counts in the memory behind descriptor 3, and does as it is told, until
// its input ends.
func work() {
	counts, err := mapCounts(3)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go count(&counts[0], make(chan int, 1))
	var quiet atomic.Bool
	var spawners sync.WaitGroup
	threads := 0
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		answer := 0
		switch in.Text() {
		case "fork":
			child := exec.Command("sleep", "1000")
			child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := child.Start(); err == nil {
				answer = child.Process.Pid
			}
		case "thread":
			threads++
			started := make(chan int)
			go count(&counts[threads], started)
			answer = <-started
			for counts[threads].Load() == 0 { // until it is out of Go's scheduler
				time.Sleep(time.Millisecond)
			}
		case "spawn":
			quiet.Store(false)
			for range 4 {
				spawners.Go(func() {
					for !quiet.Load() {
						_ = exec.Command("true").Run() // Go spawns with CLONE_VFORK
					}
				})
			}
		case "quiet":
			quiet.Store(true)
			spawners.Wait()
		}
		fmt.Println(answer)
	}
	os.Exit(0)
}

// count counts some thousand times a second: fast enough to be caught running,
// and slow enough to leave the machine to others. It writes a plain word, because
// the race detector's atomic operations wait for each other.
//
//go:norace
func count(n *atomic.Uint64, started chan<- int) {
	runtime.LockOSThread()
	started <- unix.Gettid()
	word := (*uint64)(unsafe.Pointer(n))
	nap := unix.Timespec{Nsec: 200_000}
	for {
		*word++
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&nap)), 0, 0)
	}
}
