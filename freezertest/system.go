package freezertest

import (
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
)

// A System is a tree of groups as the suite sees it, which begins empty. Groups
// have the names of freezer.CheckName; "/" is the root, which only Add and
// Processes need to know. Errors are compared by freezer.Errno, so those of the
// os package will do as well as those of package freezer. All methods may be
// called concurrently.
type System interface {
	Create(group string) error
	Remove(group string) error
	List() ([]string, error) // without the root, in any order
	Add(group string, pid int) error
	Processes(group string) ([]int, error) // ascending
	Freeze(group string) error             // waits for FROZEN for about Patience, and then returns EBUSY
	Thaw(group string) error
	States(group string) (freezer.States, error)
}

// Patience is how long the Freeze of a System tries: short, because some groups
// cannot be frozen. The suite asks again where it may have been too short.
const Patience = 2 * time.Second

// What only some systems can do. A case that needs it is skipped elsewhere.
type (
	// A TaskMover moves and lists single tasks. AddTask of one thread of many
	// may be EOPNOTSUPP.
	TaskMover interface {
		AddTask(group string, tid int) error
		Tasks(group string) ([]int, error) // ascending
	}
	// A TreeMover moves a process with all its descendants.
	TreeMover interface {
		AddTree(group string, pid int) error
	}
	// A Killer kills all tasks of a group and of its descendants.
	Killer interface {
		Kill(group string) error
	}
	// An Explainer lists the tasks that keep a group from being FROZEN.
	Explainer interface {
		Blockers(group string) ([]freezer.Blocker, error)
	}
)

// A World has the processes that the suite puts into groups. They end with the
// test that made it.
type World interface {
	Sleeper() int                       // starts a process that sleeps
	Counter() int                       // starts a process that counts
	Count(id int) uint64                // how far a Counter or a Thread has counted
	Fork(pid int) int                   // has a Counter fork a child that sleeps, for which it does not wait
	Stop(pid int)                       // sends SIGSTOP
	Continue(pid int)                   // sends SIGCONT
	KillProcess(pid int)                // sends SIGKILL
	State(pid int) byte                 // the letter of proc(5); Z for what ended, waited for or not
	Blocker() (pid int, release func()) // starts a process that can be neither frozen nor killed before its release
}

// A ThreadWorld also has threads and debuggers.
type ThreadWorld interface {
	Thread(pid int) (tid int)      // has a Counter start a thread that counts by itself
	Trace(pid int) (detach func()) // stops a process by ptrace
	KernelThread() (pid int)       // some thread of the kernel
	Spawn(pid int) (stop func())   // has a Counter start children, by vfork and exec, without pause
}

// A Target makes a System that holds no group, and a World for it; both end with
// the test.
type Target func(testing.TB) (System, World)
