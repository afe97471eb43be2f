package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/cgfreezer/freezer"
)

// hook runs a command of the user's for each group, in a shell, with the group's
// name in FREEZER_GROUP and vars beside it. The first that fails ends it.
func hook(gang freezer.Gang, command string, vars func(*freezer.Group) []string) error {
	if command == "" {
		return nil
	}
	for _, g := range gang {
		cmd := exec.Command("/bin/sh", "-c", command)
		cmd.Env = append(os.Environ(), "FREEZER_GROUP="+g.Name())
		if vars != nil {
			cmd.Env = append(cmd.Env, vars(g)...)
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s for %s: %w", command, g.Name(), err)
		}
	}
	return nil
}

// frozenSince remembers since when each group is frozen, as far as its holds
// tell.
func frozenSince(gang freezer.Gang) map[*freezer.Group]time.Time {
	since := map[*freezer.Group]time.Time{}
	for _, g := range gang {
		holds, _ := g.Holds()
		for _, h := range holds {
			if t, ok := since[g]; !h.Overridden && !h.Since.IsZero() && (!ok || h.Since.Before(t)) {
				since[g] = h.Since
			}
		}
	}
	return since
}

// lasted is the variable that tells a hook how long the freeze lasted; it is
// empty for a group that was frozen by a raw write.
func lasted(since map[*freezer.Group]time.Time) func(*freezer.Group) []string {
	return func(g *freezer.Group) []string {
		if t, ok := since[g]; ok {
			return []string{"FREEZER_SECONDS=" + strconv.FormatFloat(time.Since(t).Seconds(), 'f', 3, 64)}
		}
		return []string{"FREEZER_SECONDS="}
	}
}
