package freezer

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// A Blocker is a task that keeps a freezing group from being FROZEN.
type Blocker struct {
	TID         int    `json:"tid"`
	PID         int    `json:"pid"`
	Group       string `json:"group"` // the group below the freezing one, or that one
	Command     string `json:"command"`
	State       string `json:"state"`        // the letter of proc(5)
	WaitChannel string `json:"wait_channel"` // the kernel function it sleeps in; empty when it runs or that is not shown to us
	Syscall     string `json:"syscall"`      // the number of the system call it is in, "running", or empty when not shown to us
	Cause
}

// A Cause says why a task is not frozen.
type Cause struct {
	Reason  string `json:"reason"`            // what it does, in words that follow its name
	Release string `json:"release"`           // what would let it freeze
	File    string `json:"file,omitempty"`    // that it waits for
	Mount   string `json:"mount,omitempty"`   // the mount point of the file system that it waits for
	Source  string `json:"source,omitempty"`  // of that mount: a device, a server's export
	Process int    `json:"process,omitempty"` // that it waits for: the server of a FUSE mount, the child of a vfork, a debugger
}

// maxBlockers bounds what one report costs and says.
const maxBlockers = 64

// Blockers lists the tasks of the group and its descendants that are not
// frozen, 64 at most; none when the group is THAWED or FROZEN. It looks at one
// task after the other: one that freezes meanwhile may still be listed.
//
// What a task waits for is shown to its owner and to root only.
func (g *Group) Blockers() ([]Blocker, error) {
	state, err := g.State()
	if err != nil || state != Freezing {
		return nil, err
	}
	blockers, err := g.blockers(g.blocks)
	return blockers, opError("explain", g.name, err)
}

func (g *Group) blockers(blocks func(*taskInfo) bool) ([]Blocker, error) {
	all, err := g.Walk()
	if err != nil {
		return nil, err
	}
	var out []Blocker
	for _, sub := range all {
		tids, err := g.backend.Threads(sub.dir)
		if err != nil && err != unix.ENOENT {
			return nil, err
		}
		slices.Sort(tids)
		for _, tid := range tids {
			t, ok := readTask(tid)
			if !ok || !blocks(t) {
				continue
			}
			if len(out) == maxBlockers {
				return out, nil
			}
			b := t.blocker(sub.name)
			if h, ok := g.backend.hierarchy.(keptHierarchy); ok {
				if reason, release := h.WhyLate(tid); reason != "" {
					b.Reason, b.Release = reason, release
				}
			}
			out = append(out, b)
		}
	}
	return out, nil
}

type taskInfo struct {
	proc.Stat
	wchan   string
	syscall string   // number, "running", or empty
	args    []uint64 // of the system call
}

func readTask(tid int) (*taskInfo, bool) {
	s, err := proc.ReadStat(tid)
	if err != nil {
		return nil, false
	}
	return &taskInfo{Stat: s, wchan: proc.WaitChannel(tid)}, true
}

// blocks says whether the task is not frozen.
func (g *Group) blocks(t *taskInfo) bool { return !g.backend.FrozenTask(t.Stat, t.wchan) }

func (t *taskInfo) blocker(group string) Blocker {
	b := Blocker{
		TID: t.ID, PID: proc.Process(t.ID), Group: group, Command: t.Command,
		State: string(t.State), WaitChannel: t.wchan,
	}
	t.readSyscall()
	b.Syscall = t.syscall
	b.Cause = explain(t)
	return b
}
