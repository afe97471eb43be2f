package main

import (
	"fmt"
	"os"
	"time"
)

// A bar shows on a terminal how far a command is that takes longer than a moment.
type bar struct {
	what  string
	total int64 // bytes; 0: nobody knows
	begun time.Time
	drawn time.Time
}

// newBar returns a function to call with the bytes that are done, by one at a time,
// and one to call at the end. The first is nil where standard error is no terminal.
func newBar(what string, total int64) (tell func(int64), done func()) {
	if !isTerminal(os.Stderr) {
		return nil, func() {}
	}
	b := &bar{what: what, total: total, begun: time.Now()}
	return b.tell, b.done
}

const (
	barAfter = 500 * time.Millisecond
	barEvery = 100 * time.Millisecond
)

func (b *bar) tell(bytes int64) {
	now := time.Now()
	if now.Sub(b.begun) < barAfter || now.Sub(b.drawn) < barEvery {
		return
	}
	b.drawn = now
	fmt.Fprintf(os.Stderr, "\r%s\x1b[K", b.line(bytes, now.Sub(b.begun)))
}

func (b *bar) line(bytes int64, took time.Duration) string {
	rate := float64(bytes) / took.Seconds() / (1 << 20)
	if b.total <= 0 {
		return fmt.Sprintf("%s: %d MiB, %.0f MiB/s", b.what, bytes>>20, rate)
	}
	return fmt.Sprintf("%s: %3d %% of %d MiB, %.0f MiB/s", b.what, min(100, bytes*100/b.total), b.total>>20, rate)
}

func (b *bar) done() {
	if !b.drawn.IsZero() {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

// sizeOf is the size of a file that is opened by its name, 0 for others.
func sizeOf(name string) int64 {
	if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
		return st.Size()
	}
	return 0
}
