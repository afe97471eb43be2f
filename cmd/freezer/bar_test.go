package main

import (
	"testing"
	"time"
)

func TestABarSaysHowFarItIs(t *testing.T) {
	for _, c := range []struct {
		b     bar
		bytes int64
		want  string
	}{
		{bar{what: "restore", total: 200 << 20}, 50 << 20, "restore:  25 % of 200 MiB, 25 MiB/s"},
		{bar{what: "restore", total: 1 << 20}, 3 << 20, "restore: 100 % of 1 MiB, 2 MiB/s"},
		{bar{what: "checkpoint"}, 50 << 20, "checkpoint: 50 MiB, 25 MiB/s"},
	} {
		if got := c.b.line(c.bytes, 2*time.Second); got != c.want {
			t.Errorf("it is %q", got)
		}
	}
}
