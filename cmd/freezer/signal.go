package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interrupts are the signals that end a program unless it takes notice.
var interrupts = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

// signals is how a command takes notice of ^C. Most do not, and just end. One
// that changes something does, so that it is done or undone as a whole.
type signals struct{ wait *wait }

// notice makes the signals that end a program end a context instead, as does
// the time after a limit that is not zero. Those that were ignored when the
// program started, as nohup has it, stay ignored.
//
// It takes 0.2 ms, as long as a freeze, and is done beside the caller, who gets
// the context when it is ready, and by another call another one, which a signal
// that came before has ended, too.
func (s *signals) notice() (ready func(limit time.Duration) context.Context) {
	caught := make(chan os.Signal, 1)
	s.wait = &wait{Context: context.Background(), caught: caught}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, sig := range interrupts {
			if !signal.Ignored(sig) {
				signal.Notify(caught, sig)
			}
		}
	}()
	return func(limit time.Duration) context.Context {
		<-done
		w := &wait{Context: context.Background(), caught: caught}
		if limit != 0 {
			w.until = time.Now().Add(limit)
		}
		s.wait = w
		return w
	}
}

// release gives the signals the effect that they had when the program started,
// for the one that is to take its place, and says whether one came before.
//
// Exec kills the other threads, and a signal that one of them is handling would be
// lost. So from here on none is handled, and those handlers that still run end: a
// thread does the system call only when it is out of them.
func (s *signals) release() (interrupted bool) {
	for _, sig := range interrupts {
		if !signal.Ignored(sig) {
			unhandle(sig.(syscall.Signal))
		}
	}
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0) // not with cgo
	if signal.Ignored(syscall.SIGINT) {
		// A shell without job control starts what shall run in the background with
		// SIGINT and SIGQUIT ignored. Go's runtime lets SIGQUIT go.
		signal.Ignore(syscall.SIGQUIT)
	}
	if s.wait == nil {
		return false
	}
	signal.Stop(s.wait.caught)
	return s.wait.Err() != nil
}

// unhandle gives a signal its usual effect; os/signal would leave Go's handler.
func unhandle(sig syscall.Signal) {
	var action [4]uint64 // SIG_DFL
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// die ends the program by the signal that interrupted it, if one did: so a
// shell learns that its script is to end, too, and gives the status 130 for ^C.
func (s *signals) die() {
	if s.wait != nil && s.wait.Err() == context.Canceled {
		dieBy(s.wait.got.(syscall.Signal))
	}
}

// dieBy ends the program as one ends that takes no notice of the signal.
func dieBy(sig syscall.Signal) {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // no core of this program
	unhandle(sig)
	runtime.LockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
	os.Exit(128 + int(sig)) // the first process of a container lives on
}

// A wait is a context that ends at a signal or at a time. It starts a goroutine
// only for one who asks for Done: freezing, which asks Err, takes less time than
// to start one.
type wait struct {
	context.Context
	caught chan os.Signal
	until  time.Time

	mu   sync.Mutex
	got  os.Signal
	err  error
	done chan struct{}
}

// Deadline is the time at which it ends, if there is one.
func (w *wait) Deadline() (time.Time, bool) { return w.until, !w.until.IsZero() }

// Err says how it ended; nil when it has not.
func (w *wait) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.done != nil {
		return w.err
	}
	select {
	case w.got = <-w.caught:
		w.pass(w.got)
		w.err = context.Canceled
	default:
		if !w.until.IsZero() && !time.Now().Before(w.until) {
			w.err = context.DeadlineExceeded
		}
	}
	return w.err
}

// Done is closed when it ends.
func (w *wait) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil {
		w.done = make(chan struct{})
		go w.watch(w.err)
	}
	return w.done
}

// watch ends it, when it has not ended with err before.
func (w *wait) watch(err error) {
	defer close(w.done)
	if err != nil {
		return
	}
	var end <-chan time.Time
	if !w.until.IsZero() {
		end = time.After(time.Until(w.until))
	}
	var got os.Signal
	err = context.Canceled
	select {
	case got = <-w.caught:
		w.pass(got)
	case <-end:
		err = context.DeadlineExceeded
	}
	w.mu.Lock()
	w.got, w.err = got, err
	w.mu.Unlock()
}

// pass leaves a signal for the other waits, if none has come after it.
func (w *wait) pass(sig os.Signal) {
	select {
	case w.caught <- sig:
	default:
	}
}
