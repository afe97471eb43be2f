package checkpoint

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A process that was stopped by SIGSTOP, or by ^Z, is stopped again by SIGSTOP as
// soon as there is one. Its tracer has it run all the same, until it is let go. Its
// parent learns of the stop (WUNTRACED) if he has not yet.

// askTold asks a parent, the guest, whether he has been told of each stopped child.
func (s *survey) askTold(g *guest, parent *Process) error {
	for i := range s.job.Processes {
		c := &s.job.Processes[i]
		if c.Parent != parent.PID || !c.Stopped {
			continue
		}
		var info [32]byte // of siginfo_t; zero when there is nothing to tell
		if err := g.ask(info[:], unix.SYS_WAITID, unix.P_PID, uintptr(c.PID), g.answers, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, 0); err != nil {
			return err
		}
		c.Told = get64(info[:4]) == 0
	}
	return nil
}

// goBack has the threads of a stopped process, which could not do it by themselves
// since a checkpoint was killed, put their own registers back. See guest.go.
func (s *snapshot) goBack(p *Process) error {
	for i := range p.Threads {
		tid, regs := p.Threads[i].TID, &p.Threads[i].Registers
		back := s.inGuestCode(p, regs)
		for back && s.inGuestCode(p, regs) {
			if err := ptrace.NextSyscall(tid, 0); err != nil {
				return err
			}
			status, err := soon(tid)
			if err == nil && status.Ended() {
				err = unix.ESRCH
			}
			if err == nil {
				regs, err = ptrace.Registers(tid)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// stopAgain stops the processes that were.
func (r *restorer) stopAgain() error {
	for i := range r.job.Processes {
		if p := &r.job.Processes[i]; p.Stopped && p.Ended == nil {
			if err := r.byPID[p.PID].stop(); err != nil {
				return fmt.Errorf("process %d: stopping it: %w", p.PID, err)
			}
		}
	}
	return nil
}

// stop has the worker take a SIGSTOP.
func (w *worker) stop() error {
	if err := unix.Kill(w.pid, unix.SIGSTOP); err != nil {
		return err
	}
	for taken := unix.Signal(0); ; {
		if err := ptrace.Continue(w.tid, taken); err != nil {
			return err
		}
		status, err := soon(w.tid)
		switch {
		case err != nil:
			return err
		case status.Ended():
			return unix.ESRCH
		case status.GroupStop():
			return nil
		}
		if taken = 0; status.Signal() == unix.SIGSTOP {
			taken = unix.SIGSTOP
		}
	}
}

// tell takes the news of stopped children that the parent has had already.
func (r *restorer) tell(w *worker, parent *Process) {
	for i := range r.job.Processes {
		if c := &r.job.Processes[i]; c.Parent == parent.PID && c.Told {
			w.do("waiting for a stopped child", unix.SYS_WAITID, unix.P_PID, uintptr(c.PID), 0, unix.WSTOPPED|unix.WNOHANG|unix.WALL, 0)
		}
	}
}
