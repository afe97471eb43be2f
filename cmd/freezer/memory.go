package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/cgfreezer/freezer"
)

// reclaimFlag is a flag that has a size, or has none and then means all.
type reclaimFlag struct {
	set  bool
	size int64
}

// IsBool lets the flag stand alone.
func (*reclaimFlag) IsBool() bool { return true }

// Decode reads the size.
func (r *reclaimFlag) Decode(ctx *kong.DecodeContext) error {
	r.set = true
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	size, err := parseSize(fmt.Sprint(ctx.Scan.Pop().Value))
	r.size = size
	return err
}

// parseSize reads a number of bytes, or one with K, M, G or T behind it.
func parseSize(text string) (int64, error) {
	digits, unit := strings.TrimRight(text, "KMGTiBkmgt"), 1.0
	switch suffix := strings.ToUpper(text[len(digits):]); strings.TrimSuffix(strings.TrimSuffix(suffix, "B"), "I") {
	case "":
	case "K":
		unit = 1 << 10
	case "M":
		unit = 1 << 20
	case "G":
		unit = 1 << 30
	case "T":
		unit = 1 << 40
	default:
		return 0, fmt.Errorf("%q is no size: give bytes, or a number with K, M, G or T", text)
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n <= 0 || n*unit > 1<<62 {
		return 0, fmt.Errorf("%q is no size: give bytes, or a number with K, M, G or T", text)
	}
	return int64(n * unit), nil
}

// humanSize is a size for people.
func humanSize(n int64) string {
	switch {
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	case n < 10<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// A reclaimed is what was given back of a group's memory.
type reclaimed struct {
	Before freezer.Memory `json:"before"`
	After  freezer.Memory `json:"after"`
}

// reclaim gives the memory of each group back, and says how much.
func (s *session) reclaim(ctx context.Context, gang freezer.Gang, size int64) (map[*freezer.Group]*reclaimed, error) {
	all := map[*freezer.Group]*reclaimed{}
	err := each(gang, func(g *freezer.Group) error {
		before, after, err := g.Reclaim(ctx, size)
		if err != nil {
			return err
		}
		all[g] = &reclaimed{before, after}
		if !s.JSON {
			fmt.Fprintf(&s.out, "%s: %s of private memory before, %s after\n", printable(g.Name()), humanSize(before.Private), humanSize(after.Private))
		}
		return nil
	})
	return all, err
}

// prefetch brings back what each group has in swap, and says how much came.
func (s *session) prefetch(ctx context.Context, gang freezer.Gang) error {
	return each(gang, func(g *freezer.Group) error {
		start := time.Now()
		n, err := g.Prefetch(ctx)
		if err == nil && !s.JSON {
			fmt.Fprintf(&s.out, "%s: %s brought back in %s\n", printable(g.Name()), humanSize(n), time.Since(start).Round(time.Millisecond))
		}
		return err
	})
}
