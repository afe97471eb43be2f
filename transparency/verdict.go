package main

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// results collects what was seen of each call, by column of the table.
type results struct {
	mu      sync.Mutex
	seen    map[string]map[string][]string // column, call: symptoms
	told    []string
	skipped map[string]error // column
}

func newResults() *results {
	return &results{seen: map[string]map[string][]string{}, skipped: map[string]error{}}
}

func (r *results) failed(w way, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skipped[w.column] = err
}

// judge compares a run with the usual one. It returns the calls to try again.
func (r *results) judge(sc scenario, w way, calls []call, usual, run run, last bool) (again []call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range calls {
		was, is := usual.seen[c.name], run.seen[c.name]
		if !was.done || was.began == 0 {
			r.told = append(r.told, fmt.Sprintf("%s: %s: does not end without a freeze, either", sc.name, c.name))
			continue
		}
		symptoms, timing := compare(sc, c, usual, run, was, is)
		if timing && !last {
			again = append(again, c)
			continue
		}
		if r.seen[w.column] == nil {
			r.seen[w.column] = map[string][]string{}
		}
		r.seen[w.column][c.name] = append(r.seen[w.column][c.name], symptoms...)
		for _, s := range symptoms {
			r.told = append(r.told, fmt.Sprintf("%s: %s: %s: %s", c.name, w.name, sc.name, s))
		}
	}
	return again
}

// Tolerances. A timeout must be right within 5 ms. What an event or a signal
// ends does so together with many others, on a machine that others use, too.
const (
	timeoutTolerance = 5 * ms
	eventTolerance   = 40 * ms
	earlyTolerance   = ms
	noise            = 280 * ms // what may be the machine's doing, and is tried again
)

// compare says what differs. timing is true when a little time does.
func compare(sc scenario, c call, usual, run run, was, is sight) (symptoms []string, timing bool) {
	if !is.done {
		return []string{"hangs"}, false
	}
	failed := is.result != was.result || is.handled < was.handled && is.ended < run.signal
	if failed {
		symptoms = append(symptoms, outcome(is.result))
	} else if is.handled != was.handled {
		symptoms = append(symptoms, fmt.Sprintf("handler ran %d times", is.handled))
	}
	if is.cont != was.cont {
		symptoms = append(symptoms, "SIGCONT handled")
	}
	if is.told != was.told {
		symptoms = append(symptoms, "SIGCHLD")
	}
	if failed {
		return symptoms, false
	}
	why, off := usual.cause(sc, was)
	expected := run.thawed(run.at(sc, is, why)) + max(off, 0)
	tolerance := timeoutTolerance
	if why != "timeout" {
		tolerance = eventTolerance
	}
	if c.flags&slow != 0 {
		tolerance = 2500 * ms
	}
	diff := is.ended - expected
	if run.frozenAt(run.at(sc, is, why)) {
		tolerance = max(tolerance, eventTolerance)
	}
	early := earlyTolerance + max(off, 0) // it need not be as late as usual
	switch {
	case diff > tolerance:
		symptoms = append(symptoms, fmt.Sprintf("late by %d ms", round(diff)))
	case diff < -early:
		symptoms = append(symptoms, fmt.Sprintf("early by %d ms", round(-diff)))
	default:
		return symptoms, false
	}
	return symptoms, diff < noise && diff > -noise
}

func round(d time.Duration) int { return int((d + ms/2) / ms) }

func outcome(result int) string {
	switch {
	case result <= -1000:
		return fmt.Sprintf("%d ms left over", -1000-result)
	case result < 0:
		return unix.ErrnoName(unix.Errno(-result))
	}
	return fmt.Sprintf("returned %d", result)
}

// cause finds what ended a call that nothing froze, and how long after.
func (r run) cause(sc scenario, s sight) (why string, off time.Duration) {
	why, off = "timeout", s.ended-r.at(sc, s, "timeout")
	for _, w := range []string{"signal", "event"} {
		if at := r.at(sc, s, w); at != 0 && s.ended >= at && (off < 0 || s.ended-at < off) {
			why, off = w, s.ended-at
		}
	}
	return why, off
}

// prompt says whether no call ended much after what ended it.
func (r run) prompt(sc scenario, calls []call) bool {
	for _, c := range calls {
		s := r.seen[c.name]
		if _, off := r.cause(sc, s); s.done && off > eventTolerance && c.flags&slow == 0 {
			return false
		}
	}
	return true
}

func (r run) at(sc scenario, s sight, what string) time.Duration {
	switch what {
	case "signal":
		return r.signal
	case "event":
		return r.event
	}
	return s.began + sc.timeout
}

// thawed moves a time within a freeze to its end.
func (r run) thawed(t time.Duration) time.Duration {
	for _, f := range r.freezes {
		if t > f[0] && t < f[1] {
			t = f[1]
		}
	}
	return t
}

func (r run) frozenAt(t time.Duration) bool { return r.thawed(t) != t }

func (r *results) table(calls []call, ways []way) string {
	var columns []string
	for _, w := range ways {
		if !slices.Contains(columns, w.column) {
			columns = append(columns, w.column)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| call | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, c := range calls {
		fmt.Fprintf(&b, "| %s |", c.name)
		for _, column := range columns {
			fmt.Fprintf(&b, " %s |", r.cell(column, c.name))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (r *results) cell(column, call string) string {
	if r.skipped[column] != nil {
		return "not measured"
	}
	seen, ok := r.seen[column]
	if !ok {
		return "not measured"
	}
	symptoms, ok := seen[call]
	if !ok {
		return "not measured"
	}
	return summary(symptoms)
}

// summary joins what was seen in several scenarios, and of each kind of figure
// keeps the worst.
func summary(symptoms []string) string {
	worst := map[string]int{}
	var kinds []string
	for _, s := range symptoms {
		var n int
		kind := s
		for _, form := range []string{"late by %d ms", "early by %d ms", "%d ms left over"} {
			if _, err := fmt.Sscanf(s, form, &n); err == nil {
				kind = form
				break
			}
		}
		if _, ok := worst[kind]; !ok {
			kinds = append(kinds, kind)
		}
		worst[kind] = max(worst[kind], n)
	}
	if len(kinds) == 0 {
		return "clean"
	}
	sort.Strings(kinds)
	for i, kind := range kinds {
		if strings.Contains(kind, "%d") {
			kinds[i] = fmt.Sprintf(kind, worst[kind])
		}
	}
	return strings.Join(kinds, ", ")
}

func (r *results) details(w io.Writer) {
	sort.Strings(r.told)
	for _, line := range r.told {
		fmt.Fprintln(w, line)
	}
}
