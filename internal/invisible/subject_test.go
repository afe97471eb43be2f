//go:build amd64

package invisible_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/invisible"
)

// This test binary is its own subject, and its own tracer, when a variable says so.
const (
	subjectEnv = "INVISIBLE_SUBJECT" // CALL,TIMEOUT-MS,THREADS
	tracerEnv  = "INVISIBLE_TRACER"  // see lose_test.go
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(subjectEnv) != "":
		beSubject(strings.Split(os.Getenv(subjectEnv), ","))
	case os.Getenv(tracerEnv) != "":
		beTracer(os.Getenv(tracerEnv))
	default:
		freezertest.Main(m)
	}
}

// A subject makes one blocking call in each of its threads.
type subject struct {
	cmd *exec.Cmd
	out *bufio.Reader
	tid int
	nr  int
}

// start starts a subject in the group, and returns when its last thread is
// asleep in its call.
func start(tb testing.TB, g *freezer.Group, name string, timeout time.Duration, threads int) *subject {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%d,%d", subjectEnv, name, timeout.Milliseconds(), threads), "GODEBUG=asyncpreemptoff=1")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	freezertest.Run(tb, cmd)
	s := &subject{cmd: cmd, out: bufio.NewReader(out), nr: calls[name].nr}
	if err := g.Add(cmd.Process.Pid); err != nil {
		tb.Fatal(err)
	}
	fmt.Fprintln(in, "go")
	s.tid, _ = strconv.Atoi(s.line(tb))
	freezertest.Eventually(tb, name+" sleeps", func() bool { return s.sleeps() })
	return s
}

func (s *subject) sleeps() bool {
	return invisible.SleepsIn(s.tid, s.nr)
}

func (s *subject) line(tb testing.TB) string {
	tb.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		tb.Fatal("the subject has ended: ", err)
	}
	return strings.TrimSpace(line)
}

// result is what the call returned, and how long it took.
func (s *subject) result(tb testing.TB) (int, time.Duration) {
	tb.Helper()
	var result int
	var took time.Duration
	if _, err := fmt.Sscan(s.line(tb), &result, &took); err != nil {
		tb.Fatal(err)
	}
	return result, took
}

func beSubject(args []string) {
	timeout, _ := strconv.Atoi(args[1])
	threads, _ := strconv.Atoi(args[2])
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	for range threads - 1 {
		go func() {
			for {
				makeCall(args[0], timeout, nil)
			}
		}()
	}
	time.Sleep(time.Duration(threads) * time.Millisecond)
	for {
		makeCall(args[0], timeout, os.Stdout)
		if args[0] != "loop" {
			select {}
		}
	}
}

func makeCall(name string, timeout int, out *os.File) {
	runtime.LockOSThread()
	block := calls[name].prepare(timeout)
	if out != nil {
		fmt.Fprintln(out, unix.Gettid())
	}
	start := invisible.Now()
	r, errno := block()
	took := invisible.Now() - start
	if errno != 0 {
		r = -uintptr(errno)
	}
	if out != nil {
		fmt.Fprintln(out, int(r), took.Nanoseconds())
	}
}

// calls are those of which each mechanism of this package has to hide one.
var calls = map[string]struct {
	nr       int
	timedOut int // what it returns when time is up; 1 where it never is
	prepare  func(ms int) func() (uintptr, unix.Errno)
}{
	"epoll_wait": {unix.SYS_EPOLL_WAIT, 0, func(ms int) func() (uintptr, unix.Errno) {
		fd, _ := unix.EpollCreate1(0)
		return bare(unix.SYS_EPOLL_WAIT, uintptr(fd), room(), 1, uintptr(ms), 0, 0)
	}},
	"epoll_pwait2": {unix.SYS_EPOLL_PWAIT2, 0, func(ms int) func() (uintptr, unix.Errno) {
		fd, _ := unix.EpollCreate1(0)
		return bare(unix.SYS_EPOLL_PWAIT2, uintptr(fd), room(), 1, span(ms), 0, 8)
	}},
	"semtimedop": {unix.SYS_SEMTIMEDOP, -int(unix.EAGAIN), func(ms int) func() (uintptr, unix.Errno) {
		id, _, _ := unix.RawSyscall(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, 0o600)
		op := &[3]int16{0, -1, 0}
		block := bare(unix.SYS_SEMTIMEDOP, id, uintptr(unsafe.Pointer(op)), 1, span(ms), 0, 0)
		return func() (uintptr, unix.Errno) {
			defer func() { _, _, _ = unix.RawSyscall(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID) }()
			defer runtime.KeepAlive(op)
			return block()
		}
	}},
	"recvfrom": {unix.SYS_RECVFROM, -int(unix.EAGAIN), func(ms int) func() (uintptr, unix.Errno) {
		pair, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		tv := unix.NsecToTimeval(int64(ms) * int64(time.Millisecond))
		_ = unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		return bare(unix.SYS_RECVFROM, uintptr(pair[0]), room(), 1, 0, 0, 0)
	}},
	"rt_sigtimedwait": {unix.SYS_RT_SIGTIMEDWAIT, -int(unix.EAGAIN), func(ms int) func() (uintptr, unix.Errno) {
		set := new(uint64)
		*set = 1 << (unix.SIGUSR2 - 1)
		kept <- set
		return bare(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(set)), 0, span(ms), 8, 0, 0)
	}},
	"select": {unix.SYS_SELECT, 0, func(ms int) func() (uintptr, unix.Errno) {
		tv := unix.NsecToTimeval(int64(ms) * int64(time.Millisecond))
		kept <- &tv
		return bare(unix.SYS_SELECT, 0, 0, 0, 0, uintptr(unsafe.Pointer(&tv)), 0)
	}},
	"ppoll": {unix.SYS_PPOLL, 0, func(ms int) func() (uintptr, unix.Errno) {
		return bare(unix.SYS_PPOLL, 0, 0, span(ms), 0, 8, 0)
	}},
	"nanosleep": {unix.SYS_NANOSLEEP, 0, func(ms int) func() (uintptr, unix.Errno) {
		return bare(unix.SYS_NANOSLEEP, span(ms), 0, 0, 0, 0, 0)
	}},
	"futex": {unix.SYS_FUTEX, -int(unix.ETIMEDOUT), func(ms int) func() (uintptr, unix.Errno) {
		return bare(unix.SYS_FUTEX, room(), 0 /* FUTEX_WAIT */, 0, span(ms), 0, 0)
	}},
	"read": {unix.SYS_READ, 1, func(int) func() (uintptr, unix.Errno) {
		fd, _ := unix.Eventfd(0, 0)
		return bare(unix.SYS_READ, uintptr(fd), room(), 8, 0, 0, 0)
	}},
	"read of a pipe": {unix.SYS_READ, 1, func(int) func() (uintptr, unix.Errno) {
		var p [2]int
		_ = unix.Pipe(p[:])
		return bare(unix.SYS_READ, uintptr(p[0]), room(), 1, 0, 0, 0)
	}},
	"pause": {unix.SYS_PAUSE, 1, func(int) func() (uintptr, unix.Errno) {
		return bare(unix.SYS_PAUSE, 0, 0, 0, 0, 0, 0)
	}},
	"loop": {unix.SYS_EPOLL_WAIT, 0, func(ms int) func() (uintptr, unix.Errno) {
		fd, _ := unix.EpollCreate1(0)
		return func() (uintptr, unix.Errno) {
			defer unix.Close(fd)
			r, _, errno := unix.Syscall6(unix.SYS_EPOLL_WAIT, uintptr(fd), room(), 1, uintptr(ms), 0, 0)
			return r, errno
		}
	}},
}

func bare(nr int, a, b, c, d, e, f uintptr) func() (uintptr, unix.Errno) {
	return func() (uintptr, unix.Errno) {
		r, _, errno := unix.Syscall6(uintptr(nr), a, b, c, d, e, f)
		return r, errno
	}
}

// kept keeps what only the kernel refers to.
var kept = make(chan any, 4096)

func room() uintptr {
	b := new([64]uint64)
	kept <- b
	return uintptr(unsafe.Pointer(b))
}

func span(ms int) uintptr {
	t := unix.NsecToTimespec(int64(ms) * int64(time.Millisecond))
	kept <- &t
	return uintptr(unsafe.Pointer(&t))
}

// group makes a group on cgroup2, where Supported.
func group(tb testing.TB) *freezer.Group {
	tb.Helper()
	if !invisible.Supported() {
		tb.Skip("calls cannot be started again on " + runtime.GOARCH)
	}
	g, err := freezertest.Tree(tb, freezer.Cgroup2).Create("subjects")
	if err != nil {
		tb.Fatal(err)
	}
	return g
}
