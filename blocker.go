package freezer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
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
	Reason      string `json:"reason"`       // what it does, in words that follow its name
	Release     string `json:"release"`      // what would let it freeze
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
			out = append(out, t.blocker(sub.name))
		}
	}
	return out, nil
}

type taskInfo struct {
	proc.Stat
	wchan string
}

func readTask(tid int) (*taskInfo, bool) {
	s, err := proc.ReadStat(tid)
	if err != nil {
		return nil, false
	}
	text, _ := kernfs.ReadFile(proc.Path(tid, "wchan"))
	t := &taskInfo{s, string(text)}
	if t.wchan == "0" {
		t.wchan = ""
	}
	return t, true
}

// blocks says whether the task is not frozen.
func (g *Group) blocks(t *taskInfo) bool {
	switch t.State {
	case 'Z', 'X', 'T', 't': // the dead count as frozen, and so do the stopped
		return false
	}
	if g.backend.name == Cgroup2 {
		// The freezer's trap is in get_signal; a parent in vfork counts as frozen.
		return t.wchan != "get_signal" && t.wchan != "do_freezer_trap" && t.wchan != "kernel_clone"
	}
	// cgroup1 stops a task in its refrigerator, or leaves it where it sleeps
	// when that is one of the sleeps that know of freezing. Both show as D.
	return t.State != 'D' || t.wchan != "__refrigerator" && !slices.Contains(freezableSleeps, t.wchan)
}

// freezableSleeps are the kernel functions that sleep with TASK_FREEZABLE.
var freezableSleeps = []string{
	"hrtimer_nanosleep", "do_nanosleep", "futex_do_wait", "futex_wait_queue", "futex_wait_multiple",
	"do_epoll_wait", "ep_poll", "poll_schedule_timeout", "do_sys_poll", "do_poll", "do_select", "core_sys_select",
	"do_sigtimedwait", "unix_stream_read_generic", "unix_stream_data_wait", "kernel_clone", "rpc_wait_bit_killable",
}

func (t *taskInfo) blocker(group string) Blocker {
	b := Blocker{
		TID: t.ID, PID: proc.Process(t.ID), Group: group, Command: t.Command,
		State: string(t.State), WaitChannel: t.wchan,
	}
	if text, err := kernfs.ReadFile(proc.Path(t.ID, "syscall")); err == nil {
		b.Syscall, _, _ = strings.Cut(strings.TrimSpace(string(text)), " ")
	}
	b.Reason, b.Release = explain(t)
	return b
}

// waits are the places in the kernel in which a task cannot be frozen, by the
// beginning of the wait channel's name.
var waits = []struct{ wchan, reason, release string }{
	{"request_wait_answer", "waits for a FUSE server that does not answer", "let that server go on, or end it, or abort its connection (echo 1 > /sys/fs/fuse/connections/N/abort)"},
	{"fuse_", "waits for a FUSE server", "let that server go on, or end it"},
	{"rpc_", "waits for an NFS server", "bring the server back, or unmount with umount -f"},
	{"nfs", "waits for an NFS server", "bring the server back, or unmount with umount -f"},
	{"percpu_rwsem_wait", "writes to a file system that is frozen", "thaw the file system (fsfreeze --unfreeze)"},
	{"io_schedule", "waits for a block device", "wait for the device; dmesg tells when it is stuck"},
	{"folio_wait", "waits for a page to be read or written", "wait for the device or server behind it; dmesg tells when it is stuck"},
	{"kernel_clone", "waits in vfork for its child to exec or exit", "let the child run: it may be in a group that is frozen"},
	{"synchronize_rcu", "waits inside the kernel", "it goes on by itself"},
}

// explain says in words what a task that is not frozen does, and what would
// let it freeze.
func explain(t *taskInfo) (reason, release string) {
	for _, w := range waits {
		if t.wchan != "" && strings.HasPrefix(t.wchan, w.wchan) {
			return w.reason, w.release
		}
	}
	switch t.State {
	case 'R':
		return "is still running", "it freezes when it next leaves the kernel; freeze again"
	case 'D':
		where := ""
		if t.wchan != "" {
			where = " (" + t.wchan + ")"
		}
		return "waits inside the kernel and cannot be interrupted" + where, "whatever it waits for; dmesg and /proc/" + strconv.Itoa(t.ID) + "/stack tell more"
	}
	return fmt.Sprintf("has just arrived or is about to freeze (state %c)", t.State), "nothing: it freezes in a moment"
}
