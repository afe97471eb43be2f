package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTerminalIsPrintedLineByLine(t *testing.T) {
	tests := []struct {
		name string
		play func(*Report)
		want []string
	}{
		{"a line comes in pieces", func(r *Report) { r.terminal("ab"); r.terminal("c\nd\n") }, []string{"    | abc", "    | d"}},
		{"an empty line is a line", func(r *Report) { r.terminal("a\n\nb\n") }, []string{"    | a", "    |", "    | b"}},
		{"a prompt is shown before something else is done", func(r *Report) { r.terminal("$ "); r.does("true", "") }, []string{"    | $", "    # true"}},
		{"a line that was shown goes on", func(r *Report) { r.terminal("$ "); r.flush(); r.terminal("ls\n") }, []string{"    | $", "    | $ ls"}},
		{"a line that was shown only ends", func(r *Report) { r.terminal("$ "); r.flush(); r.terminal("\nx\n") }, []string{"    | $", "    | x"}},
		{"what is no text is left out", func(r *Report) { r.terminal("a\x1b\x07b\tc\n") }, []string{"    | ab    c"}},
		{"another terminal begins with an empty line", func(r *Report) { r.terminal("$ "); r.hangUp(); r.terminal("x\n") }, []string{"    | $", "    | x"}},
	}
	for _, test := range tests {
		var out strings.Builder
		test.play(&Report{out: &out})
		got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s:\n%s", test.name, diff)
		}
	}
}

func TestParagraphsAreWrapped(t *testing.T) {
	for _, line := range wrap(strings.Repeat("words ", 100), "  ") {
		if len(line) > width || !strings.HasPrefix(line, "  words") {
			t.Errorf("%q", line)
		}
	}
}

func TestDurationsHaveFewDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		63120 * time.Nanosecond:  "0.063 ms",
		1267 * time.Microsecond:  "1.3 ms",
		101 * time.Millisecond:   "101 ms",
		10400 * time.Microsecond: "10 ms",
	} {
		if got := ms(d); got != want {
			t.Errorf("%v: %s, not %s", d, got, want)
		}
	}
}

func TestOneBadObservationIsEnough(t *testing.T) {
	var out strings.Builder
	r := &Report{out: &out}
	r.saw("a", "A.")
	r.check("b", true, "B.")
	if !r.Good() {
		t.Error("bad without a reason")
	}
	r.check("c", false, "C.")
	r.summary(time.Second)
	if r.Good() || !strings.Contains(out.String(), "BAD Not so: C.") || !strings.Contains(out.String(), "1 of 3") {
		t.Error(out.String())
	}
}
