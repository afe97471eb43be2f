package main

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"
)

func newWait(limit time.Duration) *wait {
	w := &wait{Context: context.Background(), caught: make(chan os.Signal, 1)}
	if limit != 0 {
		w.until = time.Now().Add(limit)
	}
	return w
}

func ended(w *wait) bool {
	select {
	case <-w.Done():
		return true
	case <-time.After(20 * time.Second):
		return false
	}
}

func TestAWaitEndsAtASignalWhicheverWayItIsAsked(t *testing.T) {
	byErr := newWait(time.Hour)
	if err := byErr.Err(); err != nil {
		t.Fatal(err)
	}
	byErr.caught <- syscall.SIGINT
	if err := byErr.Err(); err != context.Canceled || !ended(byErr) {
		t.Errorf("asked by Err: %v", err)
	}
	byDone := newWait(time.Hour)
	done := byDone.Done()
	byDone.caught <- syscall.SIGTERM
	<-done
	if err := byDone.Err(); err != context.Canceled || byDone.got != syscall.SIGTERM {
		t.Errorf("asked by Done: %v, %v", err, byDone.got)
	}
}

func TestAWaitEndsAtItsTimeAndStaysSo(t *testing.T) {
	w := newWait(time.Nanosecond)
	for w.Err() == nil {
	}
	w.caught <- syscall.SIGINT
	if err := w.Err(); err != context.DeadlineExceeded || !ended(w) {
		t.Errorf("asked by Err: %v", err)
	}
	w = newWait(time.Nanosecond)
	if !ended(w) || w.Err() != context.DeadlineExceeded {
		t.Errorf("asked by Done: %v", w.Err())
	}
	if until, ok := w.Deadline(); !ok || until != w.until {
		t.Errorf("Deadline: %v, %v", until, ok)
	}
}

func TestAWaitWithoutTimeHasNoDeadline(t *testing.T) {
	w := newWait(0)
	if _, ok := w.Deadline(); ok || w.Err() != nil {
		t.Errorf("Deadline: %v, Err: %v", ok, w.Err())
	}
	child, cancel := context.WithTimeout(w, time.Hour)
	defer cancel()
	w.caught <- syscall.SIGINT
	<-child.Done()
	if err := child.Err(); err != context.Canceled {
		t.Errorf("a context below it: %v", err)
	}
}

func TestASignalEndsTheWaitsThatComeAfter(t *testing.T) {
	var s signals
	ready := s.notice()
	first := ready(time.Hour)
	defer signal.Stop(s.wait.caught)
	s.wait.caught <- syscall.SIGINT
	<-first.Done()
	if second := ready(0); second.Err() != context.Canceled || !ended(s.wait) {
		t.Errorf("the wait after it: %v", second.Err())
	}
}

func TestDyingByASignalIsDyingByIt(t *testing.T) {
	const dies = "FREEZER_TEST_DIES"
	if sig, err := strconv.Atoi(os.Getenv(dies)); err == nil {
		dieBy(syscall.Signal(sig))
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGSEGV, syscall.SIGUSR1, syscall.SIGKILL} {
		for range 5 {
			cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
			cmd.Env = append(os.Environ(), dies+"="+strconv.Itoa(int(sig)))
			_ = cmd.Run()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != sig || status.CoreDump() {
				t.Errorf("%v: it ended with %v", sig, describe(status))
			}
		}
	}
}
