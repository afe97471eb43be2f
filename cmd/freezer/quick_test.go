package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestQuickMeansWhatKongMeans(t *testing.T) {
	for _, env := range []map[string]string{{}, {"FREEZER_ROOT": "/x", "FREEZER_BACKEND": "cgroup1"}, {"FREEZER_BACKEND": "cgroup2"}} {
		t.Setenv("FREEZER_ROOT", env["FREEZER_ROOT"])
		t.Setenv("FREEZER_BACKEND", env["FREEZER_BACKEND"])
		for _, line := range []string{"freeze a", "freeze a b/c /d", "thaw a", "thaw a b", "state a", "state a b"} {
			args := strings.Fields(line)
			var g1, g2 globals
			got := quick(&g1, args)
			if got == nil {
				t.Errorf("%s is not understood", line)
				continue
			}
			k, err := parser(&g2, args)
			if err != nil {
				t.Fatal(err)
			}
			ctx, err := k.Parse(args)
			if err != nil {
				t.Fatal(err)
			}
			if want := ctx.Selected().Target.Addr().Interface(); !reflect.DeepEqual(got, want) || g1 != g2 {
				t.Errorf("%s is %+v with %+v, want %+v with %+v", line, got, g1, want, g2)
			}
		}
	}
}

func TestQuickLeavesTheRestToKong(t *testing.T) {
	for _, line := range []string{"", "freeze", "freeze --timeout 1s a", "freeze a --json", "freeze -h", "freeze -- a", "ls", "ps a", "bogus a"} {
		if got := quick(&globals{}, strings.Fields(line)); got != nil {
			t.Errorf("%q is %+v", line, got)
		}
	}
	t.Setenv("FREEZER_BACKEND", "bogus")
	if got := quick(&globals{}, []string{"freeze", "a"}); got != nil {
		t.Errorf("with a backend that there is not: %+v", got)
	}
}

func TestParserBuildsOnlyTheCommandThatIsNamed(t *testing.T) {
	for _, args := range [][]string{nil, {"--json", "ls"}, {"bogus"}} {
		k, err := parser(&globals{}, args)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(k.Model.Children); got != len(commands()) {
			t.Errorf("%q: %d commands", args, got)
		}
	}
	for _, c := range commands() {
		k, err := parser(&globals{}, []string{c.name})
		if err != nil {
			t.Fatal(err)
		}
		if got := k.Model.Children; len(got) != 1 || got[0].Name != c.name || got[0].Hidden != c.hidden {
			t.Errorf("%s: %d commands", c.name, len(got))
		}
	}
}
