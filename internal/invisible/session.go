package invisible

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Supported says whether calls can be started again on this architecture.
func Supported() bool { return len(kinds) > 0 }

// A Session remembers, from before a freeze, when the calls that tasks are in
// have to end. Its methods may be called concurrently, but Thaw only once.
type Session struct {
	// Restart leaves timeouts alone: calls that are started again then wait for
	// their whole timeout once more, and nothing stays behind after the thaw.
	Restart bool

	at    time.Duration // when Prepare ended
	notes map[int]note  // of tasks in calls that can need something

	mu      sync.Mutex
	skipped []Skip
	quit    chan struct{}
	done    chan struct{} // closed when no call is watched any more
}

// A note is what a task needs that was seen in a call.
type note struct {
	call
	need     need
	deadline time.Duration // when the call has to end, if it is to end inTime
	switches int           // of the nap that the call sleeps
}

// A Skip is a task that Thaw could do nothing for.
type Skip struct {
	TID int
	Why string
}

// New returns a Session for a freeze that nobody prepared: timeouts then start
// anew in full.
func New() *Session {
	return &Session{Restart: true, notes: map[int]note{}, quit: make(chan struct{})}
}

// Prepare looks at tasks that are about to be frozen. This takes some 5 to 10 µs
// for each, and 25 µs more for one in a call with a timeout, by two threads.
// Tasks that are gone, or of other users, are left out.
func Prepare(tids []int) *Session {
	s := New()
	s.Restart = false
	c := clocks{behind: map[int]time.Duration{}}
	s.each(tids, func(tid int) {
		if n, ok := inspect(tid, &c); ok {
			s.mu.Lock()
			s.notes[tid] = n
			s.mu.Unlock()
		}
	})
	s.at = now()
	return s
}

// each does something for each task, by two threads.
func (s *Session) each(tids []int, do func(tid int)) {
	var all sync.WaitGroup
	for _, half := range halves(tids) {
		all.Go(func() {
			for _, tid := range half {
				do(tid)
			}
		})
	}
	all.Wait()
}

// Timed says whether a task was in a call that has to be minded.
func (s *Session) Timed() bool {
	for _, n := range s.notes {
		if n.need == inTime {
			return true
		}
	}
	return false
}

// halves shares tasks out among two threads, where they are worth it.
func halves(tids []int) [][]int {
	const few = 16
	if len(tids) <= few || runtime.GOMAXPROCS(0) < 2 {
		return [][]int{tids}
	}
	return [][]int{tids[:len(tids)/2], tids[len(tids)/2:]}
}

// inspect finds what a task needs, if that does not change before the thaw.
func inspect(tid int, c *clocks) (n note, ok bool) {
	in, where := callIn(tid)
	k, ok := kinds[in.nr]
	if !ok || where != inCall || k.woken != nil {
		return n, false
	}
	n.call = in
	limit, need := k.limit(tid, in)
	if n.need = need; need != inTime {
		return n, true
	}
	n.need = restart
	if sleep, ok := napOf(strconv.Itoa(tid)); ok {
		if begin, ok := c.time(tid, sleep); ok {
			n = note{in, inTime, begin + limit, sleep.switches}
		}
	}
	return n, true
}

// Thaw makes the calls of frozen tasks start again, and calls thaw, which lets
// the tasks run, in any case, once. The tasks are those that are frozen now.
// It returns what thaw returned, as soon as all are on their way.
//
// Calls with a timeout that started again are watched by a thread until they
// return: Wait waits for that, Close gives it up. When the process ends before,
// or is killed at whatever moment, those calls may end late; nothing else
// happens to the tasks.
//
// A task that cannot be stopped (until ctx ends, and for at most 2 s) is left as
// it is.
func (s *Session) Thaw(ctx context.Context, tids []int, thaw func() error) error {
	if !Supported() {
		s.skip(0, "calls cannot be started again on "+runtime.GOARCH)
		return thaw()
	}
	tids = s.needy(tids)
	if len(tids) == 0 { // starting threads and waiting for them is half of the work then
		return thaw()
	}
	r := &relay{thawed: make(chan struct{})}
	for _, half := range halves(tids) {
		r.add()
		onThread(func() (clean bool) { return newTracer(s).run(ctx, half, r) })
	}
	done := closed(&r.minded)
	asked := askedToLetGo()
	go func() {
		select {
		case <-asked:
			s.Close()
		case <-done:
		}
	}()
	s.mu.Lock()
	s.done = done
	s.mu.Unlock()
	timer := time.NewTimer(stopTime + patience)
	defer timer.Stop()
	ready := closed(&r.ready)
	select {
	case <-ready:
	case <-timer.C: // a tracer waits for an exec that does not end
	case <-ctx.Done():
	}
	err := thaw()
	close(r.thawed)
	select {
	case <-ready:
		r.released.Wait()
	default:
	}
	return err
}

// needy lists the tasks that need help.
func (s *Session) needy(tids []int) (needy []int) {
	s.each(tids, func(tid int) {
		if s.needed(tid) {
			s.mu.Lock()
			needy = append(needy, tid)
			s.mu.Unlock()
		}
	})
	return needy
}

// needed says whether a task needs help, as far as can be seen from without.
// Tasks that need none are not touched.
func (s *Session) needed(tid int) bool {
	noted, ok := s.notes[tid]
	if ok && noted.need != nothing {
		return true
	}
	c, where := callIn(tid)
	if where != inCall {
		return where == running
	}
	k, known := kinds[c.nr]
	if !known || ok && noted.call == c {
		return false
	}
	_, n := k.limit(tid, c)
	return n != nothing
}

// closed returns a channel that is closed when the group has been waited for.
func closed(w *sync.WaitGroup) chan struct{} {
	done := make(chan struct{})
	go func() {
		w.Wait()
		close(done)
	}()
	return done
}

// A relay is what the tracers of one thaw wait for, and are waited for.
type relay struct {
	ready, released, minded sync.WaitGroup
	thawed                  chan struct{}
}

func (r *relay) add() {
	r.ready.Add(1)
	r.released.Add(1)
	r.minded.Add(1)
}

// Wait waits until no call is watched any more.
func (s *Session) Wait(ctx context.Context) error {
	s.mu.Lock()
	done := s.done
	s.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close lets go of all tasks at once: the calls that are still watched may end
// late then.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
}

// Skipped lists the tasks that Thaw could do nothing for.
func (s *Session) Skipped() []Skip {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Skip(nil), s.skipped...)
}

func (s *Session) skip(tid int, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped = append(s.skipped, Skip{tid, why})
}

// MarshalBinary makes a text of the session that another process on this host
// can thaw with; some 20 bytes for each call with a timeout.
func (s *Session) MarshalBinary() ([]byte, error) {
	version := byte(marshalVersion)
	if s.Restart {
		version = marshalRestart
	}
	b := binary.AppendVarint([]byte{version}, int64(s.at))
	for tid, n := range s.notes {
		if n.need == nothing {
			continue
		}
		for _, v := range []int64{int64(tid), int64(n.nr), int64(n.need), int64(n.deadline), int64(n.switches)} {
			b = binary.AppendVarint(b, v)
		}
	}
	return b, nil
}

// The versions of the text.
const (
	marshalVersion = 1
	marshalRestart = 2 // with Restart
)

// UnmarshalBinary reads what MarshalBinary made. The error is EINVAL for
// anything else.
func (s *Session) UnmarshalBinary(b []byte) error {
	*s = Session{notes: map[int]note{}, quit: make(chan struct{})}
	if len(b) == 0 || b[0] != marshalVersion && b[0] != marshalRestart {
		return fmt.Errorf("%w: no session of this version", unix.EINVAL)
	}
	s.Restart = b[0] == marshalRestart
	b = b[1:]
	next := func() (v int64) {
		v, n := binary.Varint(b)
		if n <= 0 {
			b = nil
			return 0
		}
		b = b[n:]
		return v
	}
	for s.at = time.Duration(next()); len(b) > 0; {
		tid := int(next())
		s.notes[tid] = note{call{nr: int(next())}, need(next()), time.Duration(next()), int(next())}
	}
	if b == nil {
		return fmt.Errorf("%w: a session that was cut short", unix.EINVAL)
	}
	return nil
}
