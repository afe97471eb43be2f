package checkpoint

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// A PosixTimer is one of timer_create(2). How often it ended since its last signal
// (timer_getoverrun) is not carried: it begins with 0.
type PosixTimer struct {
	ID     int    `json:"id"`
	Clock  int    `json:"clock"`
	Signal int    `json:"signal"`
	Notify int    `json:"notify"`        // SIGEV_
	TID    int    `json:"tid,omitempty"` // of the thread that gets the signal, with SIGEV_THREAD_ID
	Value  uint64 `json:"value,omitempty"`
	Timer  Timer  `json:"timer"` // in ns
}

// The ways of timers to tell of their end, of sigevent(7).
const (
	sigevSignal   = 0
	sigevNone     = 1
	sigevThreadID = 4
)

// The prctl by which a process chooses the IDs of its timers (since Linux 6.15).
const (
	prTimerRestoreIDs = 77 // PR_TIMER_CREATE_RESTORE_IDS
	restoreIDsOff     = 0
	restoreIDsOn      = 1
	restoreIDsGet     = 2
)

// posixTimers reads /proc/PID/timers:
//
//	ID: 0
//	signal: 64/000055d0b5b3f2a0
//	notify: signal/pid.2634
//	ClockID: 1
func (s *survey) posixTimers(p *Process, text []byte) {
	for line := range bytes.Lines(text) {
		field, value, _ := strings.Cut(strings.TrimSpace(string(line)), ": ")
		var err error
		if field == "ID" {
			p.PosixTimers = append(p.PosixTimers, PosixTimer{})
		}
		if len(p.PosixTimers) == 0 {
			break
		}
		t := &p.PosixTimers[len(p.PosixTimers)-1]
		switch field {
		case "ID":
			t.ID, err = strconv.Atoi(value)
		case "signal":
			_, err = fmt.Sscanf(value, "%d/%x", &t.Signal, &t.Value)
		case "notify":
			err = t.parseNotify(value)
		case "ClockID":
			t.Clock, err = strconv.Atoi(value)
		}
		if err != nil {
			s.hinder(p.PID, "process", "it has a POSIX timer that cannot be read: %s", line)
		}
	}
	slices.SortFunc(p.PosixTimers, func(a, b PosixTimer) int { return a.ID - b.ID })
	for _, t := range p.PosixTimers {
		s.clock(p, &t)
	}
	if len(p.PosixTimers) > 0 && unix.Prctl(prTimerRestoreIDs, restoreIDsGet, 0, 0, 0) == unix.EINVAL {
		s.hinder(p.PID, "process", "it has POSIX timers (timer_create), whose IDs cannot be chosen before Linux 6.15")
	}
}

func (t *PosixTimer) parseNotify(text string) error {
	how, whom, _ := strings.Cut(text, "/")
	switch how {
	case "signal", "thread": // SIGEV_THREAD is a signal to the kernel
		t.Notify = sigevSignal
	case "none":
		t.Notify = sigevNone
	default:
		return unix.EINVAL
	}
	if tid, ok := strings.CutPrefix(whom, "tid."); ok {
		var err error
		t.Notify |= sigevThreadID
		t.TID, err = strconv.Atoi(tid)
		return err
	}
	return nil
}

// clock looks whether a timer's clock can be had again. Those of processors are
// numbers made of a PID or TID.
func (s *survey) clock(p *Process, t *PosixTimer) {
	const thread = 4 // in the number of a processor's clock
	ownThread := t.Clock == unix.CLOCK_THREAD_CPUTIME_ID || t.cpuClockOf() == 0 && t.Clock&thread != 0
	switch {
	case ownThread && len(proc.Threads(p.PID)) > 1:
		s.hinder(p.PID, "process", "POSIX timer %d counts the processor time of a thread, and the kernel does not say of which", t.ID)
	case t.Clock >= 0:
	case t.cpuClockOf() < 0:
		s.hinder(p.PID, "process", "POSIX timer %d is of a device's clock", t.ID)
	case t.cpuClockOf() != 0 && !slices.ContainsFunc(s.job.Processes, func(q Process) bool { return q.PID == proc.Process(t.cpuClockOf()) }):
		s.hinder(p.PID, "process", "POSIX timer %d counts the processor time of process %d, which is not in the group", t.ID, t.cpuClockOf())
	}
}

// cpuClockOf is the PID or TID in the number of a clock, 0 for the process itself,
// and negative for another kind of clock.
func (t *PosixTimer) cpuClockOf() int {
	const kind, device = 3, 3
	if t.Clock >= 0 || t.Clock&kind == device {
		return -1
	}
	return ^(t.Clock >> 3)
}

// askTimers asks what is left of timers.
func (g *guest) askTimers(p *Process) error {
	for i := range p.PosixTimers {
		t := &p.PosixTimers[i]
		var value [32]byte
		if err := g.ask(value[:], unix.SYS_TIMER_GETTIME, uintptr(t.ID), g.answers); err != nil {
			return err
		}
		for k := range t.Timer {
			t.Timer[k] = int64(get64(value[8*k:]))
		}
	}
	return nil
}

// makeTimers makes a process's timers again. All its threads are there.
func makeTimers(w *worker, p *Process) error {
	if len(p.PosixTimers) == 0 {
		return nil
	}
	w.do("choosing the IDs of timers", unix.SYS_PRCTL, prTimerRestoreIDs, restoreIDsOn)
	for _, t := range p.PosixTimers {
		event := make([]byte, 64) // struct sigevent
		put64(event, t.Value)
		put64(event[8:], uint64(t.Signal)|uint64(t.Notify)<<32)
		put64(event[16:], uint64(t.TID))
		id, value := make([]byte, 8), make([]byte, 32)
		put64(id, uint64(t.ID))
		for k, v := range t.Timer {
			put64(value[8*k:], uint64(v))
		}
		what := fmt.Sprintf("POSIX timer %d", t.ID)
		w.do(what, unix.SYS_TIMER_CREATE, uintptr(t.Clock), w.put(event), w.put(id))
		w.do(what, unix.SYS_TIMER_SETTIME, uintptr(t.ID), 0, w.put(value), 0)
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.do("choosing the IDs of timers", unix.SYS_PRCTL, prTimerRestoreIDs, restoreIDsOff)
	return nil
}

// check says whether such a timer can be, after one with the ID before.
func (t *PosixTimer) check(before int) bool {
	return t.ID > before && t.ID <= math.MaxInt32 && t.Signal >= 0 && t.Signal <= 64 &&
		(t.Notify == sigevSignal || t.Notify == sigevNone || t.Notify == sigevSignal|sigevThreadID)
}
