package freezertest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A Way is one means of doing what a benchmark measures.
type Way struct {
	Name          string
	Do            func() error
	Before, After func() error // run before and after each Do and are not measured; may be nil
}

// Interleave does the same by each way once in each round, in an order that
// changes, so that whatever else the machine does strikes all ways alike, and
// returns how long each took.
func Interleave(b *testing.B, rounds int, ways []Way) [][]time.Duration {
	b.Helper()
	took := make([][]time.Duration, len(ways))
	try := func(do func() error) {
		if do == nil {
			return
		}
		if err := do(); err != nil {
			b.Fatal(err)
		}
	}
	for range rounds {
		for _, i := range rand.Perm(len(ways)) {
			try(ways[i].Before)
			start := time.Now()
			try(ways[i].Do)
			took[i] = append(took[i], time.Since(start))
			try(ways[i].After)
		}
	}
	return took
}

// Percentile returns the time that p in a hundred of the measured ones do not
// exceed.
func Percentile(took []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// ReportFloor reports the median and the 99th percentile of ours, those of the
// floor, which is the best of the bare ways for each of the two, and ours as a
// multiple of the floor. It replaces ns/op. The floor's median is returned.
func ReportFloor(b *testing.B, ours []time.Duration, bare [][]time.Duration) time.Duration {
	b.ReportMetric(0, "ns/op")
	var median time.Duration
	for _, p := range []int{99, 50} {
		median = Percentile(bare[0], p)
		for _, took := range bare[1:] {
			median = min(median, Percentile(took, p))
		}
		mine := Percentile(ours, p)
		b.ReportMetric(float64(mine), fmt.Sprintf("p%d-ns", p))
		b.ReportMetric(float64(median), fmt.Sprintf("floor-p%d-ns", p))
		b.ReportMetric(float64(mine)/float64(median), fmt.Sprintf("x-p%d", p))
	}
	return median
}
