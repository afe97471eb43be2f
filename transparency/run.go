package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A run is one performance of a scenario.
type run struct {
	start   time.Duration
	freezes [][2]time.Duration // when they were over
	signal  time.Duration
	event   time.Duration
	seen    map[string]sight
}

func clock() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}

func (p *program) perform(sc scenario, w way, calls []call) (r run, err error) {
	runtime.LockOSThread() // the stage dies with the thread that started it
	defer runtime.UnlockOSThread()
	ice, err := w.open()
	if err != nil {
		return r, err
	}
	defer ice.close()
	timeout := sc.timeout
	if sc.untimed {
		timeout = -ms
	}
	s, err := p.start(calls, ice.group(), int(timeout/ms), sc.options)
	if err != nil {
		return r, err
	}
	defer s.end()
	r.start = s.begin()
	at := func(t time.Duration) { time.Sleep(r.start + t - clock()) }
	events := sc.timeline()
	for _, e := range events {
		at(e.at)
		switch e.what {
		case "freeze":
			r.freezes = append(r.freezes, [2]time.Duration{clock(), 0})
			err = ice.freeze(s)
		case "thaw":
			r.freezes[len(r.freezes)-1][1] = clock()
			err = ice.thaw(s)
		default:
			if e.what == "signal" {
				r.signal = clock()
			} else {
				r.event = clock()
			}
			s.tell(e.what)
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", e.what, err)
		}
	}
	at(max(sc.timeout, events[len(events)-1].at) + 100*ms)
	r.seen = s.report(1500 * ms)
	return r, nil
}

// control performs a scenario without freezing anything, on a machine that was
// not too busy for it if there is such a moment.
func (p *program) control(sc scenario, calls []call) (r run, err error) {
	for range 5 {
		if r, err = p.perform(sc, control, calls); err != nil || r.prompt(sc, calls) {
			break
		}
	}
	return r, err
}

type moment struct {
	at   time.Duration
	what string
}

func (sc scenario) timeline() (out []moment) {
	for _, f := range sc.freezes {
		out = append(out, moment{f[0], "freeze"}, moment{f[1], "thaw"})
	}
	if sc.signal != 0 {
		out = append(out, moment{sc.signal, "signal"})
	}
	if sc.event != 0 {
		out = append(out, moment{sc.event, "event"})
	}
	slices.SortFunc(out, func(a, b moment) int { return cmp.Compare(a.at, b.at) })
	return out
}

// A measurement is one of all scenarios in all ways.
type measurement struct {
	*program
	*results
	ctx   context.Context
	seats chan bool // how many stages there may be at once
}

// measure performs all scenarios in all ways, a few side by side. When ctx ends
// it finishes only what it has begun.
func (p *program) measure(ctx context.Context, calls []call, ways []way, verbose bool) *results {
	m := measurement{p, newResults(), ctx, make(chan bool, 3)}
	var all sync.WaitGroup
	for _, sc := range scenarios {
		if len(sc.of(calls)) > 0 {
			all.Go(func() { m.scenario(sc, sc.of(calls), ways) })
		}
	}
	all.Wait()
	if verbose {
		m.details(os.Stderr)
	}
	return m.results
}

// scenario performs a scenario without a freeze, and then in each way.
func (m *measurement) scenario(sc scenario, calls []call, ways []way) {
	usual, err := m.seated(func() (run, error) { return m.control(sc, calls) })
	if err != nil {
		m.complain(sc, "without a freeze", err)
		return
	}
	var all sync.WaitGroup
	for _, w := range ways {
		all.Go(func() { m.compare(sc, w, calls, usual) })
	}
	all.Wait()
}

// compare performs a scenario in one way, and for the calls that were only late or
// early once more, because this may be the machine's doing.
func (m *measurement) compare(sc scenario, w way, calls []call, usual run) {
	const tries = 4
	for try := 1; try <= tries && len(calls) > 0; try++ {
		r, err := m.seated(func() (run, error) { return m.perform(sc, w, calls) })
		if err != nil {
			m.complain(sc, w.name, err)
			m.failed(w, err)
			return
		}
		calls = m.judge(sc, w, calls, usual, r, try == tries)
	}
}

func (m *measurement) complain(sc scenario, how string, err error) {
	if m.ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "%s, %s: %v\n", sc.name, how, err)
	}
}

func (m *measurement) seated(perform func() (run, error)) (run, error) {
	m.seats <- true
	defer func() { <-m.seats }()
	if err := m.ctx.Err(); err != nil {
		return run{}, err
	}
	return perform()
}
