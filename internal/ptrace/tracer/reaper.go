package tracer

import (
	"sync"
	"time"

	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// reaped drops the tasks that have ended while others of their process were
// seized: the process was about to start another program.
func (t *tracer) reaped() {
	for tid, s := range t.reaper.take() {
		if k := t.tasks[tid]; k != nil {
			t.happened(k.of.path)
			t.ended(k, s)
		}
	}
}

// A reaper waits for ends of tracees while the tracer's thread waits for an exec
// that cannot go on before: see ptrace.Seize.
type reaper struct {
	mu    sync.Mutex
	on    bool
	timer *time.Timer
	pid   int                   // of the process that is being seized
	count int                   // of what has been seized, ever
	seen  int                   // the same at the last beat
	ended map[int]ptrace.Status // by TID
}

// reaperBeat is how often it looks. No thread's seizing takes so long unless it
// waits.
const reaperBeat = 2 * time.Millisecond

// guard has the reaper watch over a process until done.
func (r *reaper) guard(p *process) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on, r.pid = true, p.pid
	if r.timer == nil {
		r.timer = time.AfterFunc(reaperBeat, r.reap)
	} else {
		r.timer.Reset(reaperBeat)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.on = false
		r.timer.Stop()
	}
}

func (r *reaper) goesOn() {
	r.mu.Lock()
	r.count++
	r.mu.Unlock()
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.on {
		return
	}
	r.timer.Reset(reaperBeat)
	if r.count != r.seen { // the seizing goes on
		r.seen = r.count
		return
	}
	for _, tid := range proc.Threads(r.pid) { // also those that nobody told of
		if s, ended := ptrace.Reap(tid); ended {
			if r.ended == nil {
				r.ended = map[int]ptrace.Status{}
			}
			r.ended[tid] = s
		}
	}
}

func (r *reaper) take() map[int]ptrace.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended := r.ended
	r.ended = nil
	return ended
}
