package tracer

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// startVariable makes a program that uses this package a tracer. Its value is the
// place; the one who started it is at the other end of descriptor 3.
const startVariable = "FREEZER_TRACER"

const startSocket = 3

func init() {
	if place := os.Getenv(startVariable); place != "" && started() {
		os.Unsetenv(startVariable)
		run := runTracer
		if os.Getenv(groupVariable) != "" {
			run = runJob
		}
		if run(place) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// started says whether the variable was set by start. A program that has more
// rights than its caller never becomes a tracer.
func started() bool {
	const atSecure = 23
	kind, err := unix.GetsockoptInt(startSocket, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return false
	}
	auxv, err := unix.Auxv()
	for _, pair := range auxv {
		if pair[0] == atSecure {
			return pair[1] == 0
		}
	}
	return err == nil
}

// runTracer is the tracer, from its beginning to its end.
func runTracer(place string) error {
	// The main thread is the tracer: locked in init, main's goroutine never leaves it.
	runtime.LockOSThread()
	h := &Hierarchy{mount: place}
	if err := h.check(); err != nil {
		return err
	}
	lock, err := unix.Open(filepath.Join(place, lockName), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err // there is one
	}
	// Whatever group it was started from, it is in none.
	t, err := h.newTracer(socketName, record{})
	if err != nil {
		return err
	}
	t.run()
	unix.Close(t.listener)
	t.forgetDead()
	return nil
}

// newTracer makes a tracer of this process, which listens at a socket and whose
// record, but for the start time, is r.
func (h *Hierarchy) newTracer(socket string, r record) (*tracer, error) {
	debug.SetGCPercent(400) // little is ever alive
	precede()
	self, err := proc.ReadStat(os.Getpid())
	if err != nil {
		return nil, err
	}
	r.start = self.Start
	if err := h.setRecord(self.ID, r); err != nil {
		return nil, err
	}
	listener, err := h.listen(socket)
	if err != nil {
		return nil, err
	}
	_ = unix.SetNonblock(startSocket, true)
	unix.CloseOnExec(startSocket)
	return newTracer(h, listener, countEnds()), nil
}

// precede gives the tracer's threads precedence, where it may: what it chases
// should not be ahead because the machine is busy.
func precede() {
	for _, tid := range proc.Threads(os.Getpid()) {
		_ = unix.Setpriority(unix.PRIO_PROCESS, tid, -10)
	}
}

// countEnds returns an eventfd that is written to when a tracee has ended. Its
// stops raise no SIGCHLD (see tellStops).
func countEnds() int {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	go func() {
		one := [8]byte{1} // of whatever byte order, it is not 0
		for range signals {
			_, _ = unix.Write(fd, one[:])
		}
	}()
	tellStops(false)
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGCHLD - 1)
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil) // let another thread be disturbed
	return fd
}

// tellStops says whether stops of tracees raise SIGCHLD, too; the rest stays as
// Go's runtime has set it up. While tasks are frozen there would be a thousand at
// a time, and they are looked for anyway.
func tellStops(yes bool) {
	var action struct {
		handler  uintptr
		flags    uintptr
		restorer uintptr
		mask     [2]uint64
	}
	const noStops = 1 // SA_NOCLDSTOP
	at := uintptr(unsafe.Pointer(&action))
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), 0, at, 8, 0, 0); errno != 0 {
		return
	}
	action.flags |= noStops
	if yes {
		action.flags &^= noStops
	}
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), at, 0, 8, 0, 0)
}

// listen makes a socket. It gets its name when it can be connected to: who finds
// one that cannot be takes it away.
func (h *Hierarchy) listen(socket string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	temporary := socket + "~" + strconv.Itoa(os.Getpid())
	err = h.atSocket(temporary, func(path string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: path}) })
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err == nil {
		err = unix.Rename(filepath.Join(h.mount, temporary), filepath.Join(h.mount, socket))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// atSocket calls do with a path of a socket that is short enough for one.
func (h *Hierarchy) atSocket(socket string, do func(path string) error) error {
	dir, err := unix.Open(h.mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return do("/proc/self/fd/" + strconv.Itoa(dir) + "/" + socket)
}

// startEnvironment is more environment for tracers. Only tests need it.
var startEnvironment []string

// start starts a tracer, unless there is one, and returns a connection to the
// new one, over which the first request can be sent at once.
func (h *Hierarchy) start() (*os.File, error) {
	if err := h.Make(); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "tracer"), os.NewFile(uintptr(pair[1]), "starter")
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{"freezer-tracer", h.mount}, &os.ProcAttr{
		Dir:   "/",
		Env:   append([]string{startVariable + "=" + h.mount}, startEnvironment...),
		Files: []*os.File{null, null, null, theirs},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("the tracer, which holds tasks, cannot be started: %w", err)
	}
	go func() { _, _ = p.Wait() }()
	return ours, nil
}
