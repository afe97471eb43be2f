package main

import (
	"os"
	"slices"
	"strings"

	"github.com/cgfreezer/freezer"
)

// quick understands the plainest command lines, those that freeze, thaw or look
// at groups without any flag; nil for all others, which are kong's. Building
// kong's model would make a freeze take half as long again.
func quick(g *globals, args []string) runner {
	if len(args) < 2 || slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") }) {
		return nil
	}
	g.Root, g.Backend = os.Getenv("FREEZER_ROOT"), os.Getenv("FREEZER_BACKEND")
	if g.Backend != "" && g.Backend != freezer.Cgroup2 && g.Backend != freezer.Cgroup1 {
		return nil
	}
	switch groups := args[1:]; args[0] {
	case "freeze":
		return &freezeCmd{Groups: groups, Timeout: freezer.DefaultTimeout, OnTimeout: "keep"}
	case "thaw":
		return &thawCmd{Groups: groups}
	case "state":
		return &stateCmd{Groups: groups}
	}
	return nil
}
