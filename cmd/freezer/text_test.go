package main

import (
	"os/exec"
	"testing"
)

func TestPrintableTextCannotDriveATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain ünïcode …": "plain ünïcode …",
		"two\nlines":      "two\nlines",
		"\x1b[31mred":     `\x1b[31mred`,
		"bell\a":          `bell\a`,
		"\xff":            `\xff`,
		"\u202eevil":      `\u202eevil`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := cell("a\nb\tc"); got != `a\nb\tc` {
		t.Errorf("cell: %q", got)
	}
}

func TestShellsReadQuotedWordsBack(t *testing.T) {
	for _, word := range []string{"sim", "sim/rank0", "/", "", "a b", "it's", `"$HOME"`, "`x`", "a;b", "*", "ä", "\\", "a\x1bb"} {
		out, err := exec.Command("sh", "-c", "printf %s "+quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q is quoted as %s, which is %q (%v)", word, quote(word), out, err)
		}
	}
	if got := quote("sim/rank0"); got != "sim/rank0" {
		t.Errorf("quoted without need: %s", got)
	}
}
