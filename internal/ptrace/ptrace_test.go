package ptrace

import (
	"bytes"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// tracee starts a program and seizes it. The test's goroutine is its tracer.
func tracee(t *testing.T, name string, args ...string) (*exec.Cmd, int) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pid := cmd.Process.Pid
	if err := Seize(pid, 0); err != nil {
		t.Skip("no ptrace here: ", err)
	}
	interrupted(t, pid) // its exec may not be quite over
	if err := SetOptions(pid, Follow); err != nil {
		t.Fatal(err)
	}
	if err := Continue(pid, 0); err != nil {
		t.Fatal(err)
	}
	return cmd, pid
}

func interrupted(t *testing.T, pid int) Status {
	t.Helper()
	if err := Interrupt(pid); err != nil {
		t.Fatal(err)
	}
	return stops(t, pid)
}

func stops(t *testing.T, pid int) Status {
	t.Helper()
	s, err := Wait(pid)
	if err != nil || !s.Stopped() {
		t.Fatalf("%+v, %v", s, err)
	}
	return s
}

func TestASeizedTaskStopsWhenItIsInterrupted(t *testing.T) {
	_, pid := tracee(t, "sleep", "1000")
	if s, err := Poll(pid); err != nil || s.Stopped() || s.Ended() {
		t.Errorf("seized: %+v, %v", s, err)
	}
	s := interrupted(t, pid)
	if s.Event() != unix.PTRACE_EVENT_STOP || s.Signal() != 0 || s.GroupStop() {
		t.Errorf("%+v", s)
	}
	if again := stops(t, pid); again != s {
		t.Errorf("seen again it is %+v", again)
	}
	if err := Detach(pid, 0); err != nil {
		t.Error(err)
	}
	if _, err := Poll(pid); err != nil { // it is our child, too
		t.Error(err)
	}
}

func TestASignalIsHandedBack(t *testing.T) {
	cmd, pid := tracee(t, "sleep", "1000")
	_ = unix.Kill(pid, unix.SIGTERM)
	s := stops(t, pid)
	if s.Signal() != unix.SIGTERM {
		t.Errorf("%+v", s)
	}
	if err := Detach(pid, s.Signal()); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGTERM {
		t.Errorf("it died of %v", got)
	}
}

func TestAStoppedProcessIsInAGroupStop(t *testing.T) {
	_, pid := tracee(t, "sleep", "1000")
	_ = unix.Kill(pid, unix.SIGSTOP)
	s := stops(t, pid)
	if s.Signal() != unix.SIGSTOP {
		t.Fatalf("%+v", s)
	}
	if err := Continue(pid, s.Signal()); err != nil {
		t.Fatal(err)
	}
	if s = stops(t, pid); !s.GroupStop() || s.Signal() != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTheEndOfATraceeIsReaped(t *testing.T) {
	cmd, pid := tracee(t, "sleep", "1000")
	_ = cmd.Process.Kill()
	s, err := Wait(pid)
	if _, signal := s.ExitStatus(); err != nil || !s.Ended() || signal != unix.SIGKILL {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Poll(pid); err != unix.ECHILD {
		t.Errorf("afterwards: %v", err)
	}
}

func TestRegistersAndMemoryAreReadAndWritten(t *testing.T) {
	if !HasRegs {
		t.Skip("not on this architecture")
	}
	_, pid := tracee(t, "sleep", "1000")
	interrupted(t, pid)
	regs, err := Registers(pid)
	if err != nil {
		t.Fatal(err)
	}
	if regs.Syscall() == unix.SYS_CLOCK_NANOSLEEP && regs.Result() != -516 { // -ERESTART_RESTARTBLOCK
		t.Errorf("the sleep ends with %d", regs.Result())
	}
	pc, sp := regs.PC(), regs.SP()
	regs.SetArg(5, 42)
	if err := SetRegisters(pid, regs); err != nil {
		t.Fatal(err)
	}
	if regs, err = Registers(pid); err != nil || regs.Arg(5) != 42 || regs.PC() != pc || regs.SP() != sp {
		t.Errorf("%+v, %v", regs, err)
	}
	for name, addr := range map[string]uintptr{"stack": sp - 4096, "code": pc} {
		old, want, got := make([]byte, 100), bytes.Repeat([]byte("x"), 100), make([]byte, 100)
		if err := Peek(pid, addr, old); err != nil {
			t.Fatal(name, err)
		}
		if err := Poke(pid, addr, want); err != nil {
			t.Fatal(name, err)
		}
		if err := Peek(pid, addr, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err := Poke(pid, addr, old); err != nil {
			t.Fatal(name, err)
		}
	}
	if err := Peek(pid, 0, make([]byte, 8)); err != unix.EIO {
		t.Errorf("the address 0: %v", err)
	}
}

func TestExecIsTold(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x; exec sleep 1000")
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pid := cmd.Process.Pid
	if err := Seize(pid, Follow); err != nil {
		t.Skip("no ptrace here: ", err)
	}
	_, _ = in.Write([]byte("\n"))
	if s := stops(t, pid); s.Event() != unix.PTRACE_EVENT_EXEC {
		t.Fatalf("%+v", s)
	}
	if old, err := Message(pid); err != nil || old != pid {
		t.Errorf("it was %d, %v", old, err)
	}
	if err := Detach(pid, 0); err != nil {
		t.Error(err)
	}
}
