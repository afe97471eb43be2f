package main

import "time"

// A scenario is what happens, at which times after the last call was made.
type scenario struct {
	name    string
	needs   int // flags of calls that it is for
	without int // flags of calls that it is not for
	timeout time.Duration
	untimed bool // calls that something else can end are made without their timeout
	options string
	freezes [][2]time.Duration
	signal  time.Duration
	event   time.Duration
}

const ms = time.Millisecond

var scenarios = []scenario{
	{name: "time is up after the thaw", needs: timed, timeout: 1000 * ms, freezes: once},
	{name: "time is up after two freezes", needs: timed, timeout: 1000 * ms, freezes: [][2]time.Duration{{200 * ms, 300 * ms}, {400 * ms, 550 * ms}}},
	{name: "time is up while frozen", needs: timed, timeout: 500 * ms, freezes: [][2]time.Duration{{200 * ms, 700 * ms}}},
	{name: "time is up in a thread, with handlers", needs: timed, without: oneThread, timeout: 1000 * ms, options: "ht", freezes: once},
	{name: "an event while frozen, time is up later", needs: hasEvent, without: slow, timeout: 1000 * ms, freezes: once, event: 350 * ms},
	{name: "an event and then the end of time, both while frozen", needs: timed | hasEvent, without: slow, timeout: 500 * ms, freezes: [][2]time.Duration{{200 * ms, 700 * ms}}, event: 300 * ms},
	{name: "an event after the thaw, no timeout", needs: hasEvent, untimed: true, timeout: 1000 * ms, freezes: once, event: 650 * ms},
	{name: "an event after the thaw, in a thread, with handlers", needs: hasEvent, without: oneThread | slow, timeout: 1000 * ms, options: "ht", freezes: once, event: 650 * ms},
	{name: "a signal with a handler while frozen", untimed: true, timeout: 1000 * ms, options: "h", freezes: once, signal: 350 * ms, event: 700 * ms},
	{name: "a signal with an SA_RESTART handler while frozen", timeout: 1000 * ms, options: "hr", freezes: once, signal: 350 * ms, event: 700 * ms},
	{name: "a signal with a handler after the thaw", timeout: 1000 * ms, options: "h", freezes: once, signal: 600 * ms, event: 700 * ms},
	{name: "a signal with an SA_RESTART handler in a thread while frozen", without: oneThread, untimed: true, timeout: 1000 * ms, options: "hrt", freezes: once, signal: 350 * ms, event: 700 * ms},
}

var once = [][2]time.Duration{{200 * ms, 500 * ms}}

// for selects the calls that a scenario applies to. In an untimed one, calls
// that nothing but time can end have no part.
func (sc scenario) of(calls []call) (out []call) {
	for _, c := range calls {
		if c.flags&sc.needs == sc.needs && c.flags&sc.without == 0 && (!sc.untimed || c.flags&hasEvent != 0) {
			out = append(out, c)
		}
	}
	return out
}
