package tracer

import (
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A listener is a process that takes numbered signals.
type listener struct {
	*exec.Cmd
	log  *listenerLog
	sent uint64
}

type listenerLog struct{ beats, last, wrong atomic.Uint64 }

func newListener(t testing.TB, g *Group) *listener {
	t.Helper()
	program := compiled(t, "signals")
	c := newCounter(t)
	l := &listener{Cmd: start(t, program, c.path), log: (*listenerLog)(unsafe.Pointer(c.n))}
	eventually(t, "the listener runs", func() bool { return l.log.beats.Load() > 0 })
	add(t, g, l.Process.Pid)
	return l
}

// send queues the next numbered signal, see sigqueue(3).
func (l *listener) send(t testing.TB) {
	t.Helper()
	info := struct {
		signo, errno, code, _ int32
		pid                   int32
		uid                   uint32
		value                 uint64
		_                     [96]byte
	}{signo: 34, code: -1, pid: int32(unix.Getpid()), uid: uint32(unix.Getuid()), value: l.sent + 1}
	for {
		_, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(l.Process.Pid), 34, uintptr(unsafe.Pointer(&info)))
		if errno == 0 {
			l.sent++
			return
		}
		if errno != unix.EAGAIN {
			t.Error(errno)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// check makes sure that all signals have come, each once and in order.
func (l *listener) check(t testing.TB) {
	t.Helper()
	eventually(t, "the last signal has come", func() bool { return l.log.last.Load() == l.sent })
	if n := l.log.wrong.Load(); n > 0 {
		t.Errorf("%d of %d signals were lost or came in a wrong order", n, l.sent)
	}
}

func TestSignalsOfAFrozenTaskActAtThawInOrder(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	l := newListener(t, g)
	freeze(t, g)
	for range 50 {
		l.send(t)
	}
	time.Sleep(5 * time.Millisecond)
	if n := l.log.last.Load(); n != 0 {
		t.Errorf("signal %d was taken while it was frozen", n)
	}
	if frozen, _ := g.Frozen(); !frozen {
		t.Error("the signals thawed it")
	}
	thaw(t, g)
	l.check(t)
}

func TestNoSignalIsLostWhileFreezingAndThawing(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	l := newListener(t, g)
	sending(t, l, func() {
		for range 60 {
			freeze(t, g)
			thaw(t, g)
		}
	})
	l.check(t)
}

// sending calls do while signals are sent without pause.
func sending(t testing.TB, l *listener, do func()) {
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				l.send(t)
				time.Sleep(20 * time.Microsecond)
			}
		}
	})
	defer sender.Wait()
	defer close(stop)
	do()
}

func TestAStoppedProcessStaysStopped(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	add(t, g, pid)
	_ = unix.Kill(pid, unix.SIGSTOP)
	eventually(t, "it is stopped", func() bool { return taskStates(pid) == "T" })
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("wait: %v, %v", status, err)
	}
	freeze(t, g)
	thaw(t, g)
	eventually(t, "it is stopped again", func() bool { return taskStates(pid) == "T" })
	if got, err := syscall.Wait4(pid, &status, syscall.WUNTRACED|syscall.WNOHANG|syscall.WCONTINUED, nil); got != 0 {
		t.Errorf("its parent saw a freeze: %x, %v", status, err)
	}
	freeze(t, g)
	_ = unix.Kill(pid, unix.SIGCONT)
	time.Sleep(2 * time.Millisecond)
	if frozen, _ := g.Frozen(); !frozen {
		t.Error("SIGCONT thawed it")
	}
	thaw(t, g)
	eventually(t, "it goes on", func() bool { return taskStates(pid) == "S" })
}

func TestAKilledTaskOfAFrozenGroupDiesAtOnce(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	cmd := start(t, "sleep", "1000")
	other := start(t, "sleep", "1000").Process.Pid
	add(t, g, cmd.Process.Pid)
	add(t, g, other)
	freeze(t, g)
	_ = cmd.Process.Kill()
	if state, err := cmd.Process.Wait(); err != nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("its parent saw %v, %v", state, err)
	}
	eventually(t, "the group is frozen", func() bool { frozen, _ := g.Frozen(); return frozen })
	if got := taskStates(other); got != "t" {
		t.Errorf("the other is in state %q", got)
	}
}
