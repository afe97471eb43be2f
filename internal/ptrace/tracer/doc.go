// Package tracer is the backend `ptrace`: it freezes groups of tasks where the
// caller can write no cgroup, by holding each task in a ptrace stop.
//
// # Who does what
//
// Groups are directories in the user's runtime directory, and a record there
// names the group of each process that was put into one. All that needs no
// process of ours.
//
// Holding tasks does: the kernel lets go of them when their tracer ends. So
// there is one tracer for each user, a process that is started by the first
// freeze and ends when it holds nothing. It is the program that uses this
// package, started once more with a variable in its environment, which init
// below looks for; so it needs neither an installed program nor a hook in main.
// One for all groups, because the kernel allows a task only one tracer, and
// lets it run on between two.
//
// (Where only descendants may be traced there is one more for each job; see
// NeedsRunner.)
//
// Everybody else asks the tracer through a socket. Self states live in it: when
// nobody listens there, nothing is frozen. Losing the tracer, at whatever
// instruction, thaws all, and harms nothing.
//
// # How a group becomes frozen
//
// The tracer looks through /proc for processes that belong to a freezing group,
// seizes their threads and interrupts all before it waits for any. Children and
// threads of a tracee are tracees from their birth. It looks again until two
// looks, which began after all known tasks had stopped, have found nothing new.
// Then nothing is left that could fork. As long as nothing at all has been born
// on the host, which the kernel counts, another look would find the same, and is
// spared; so are a new listing of /proc, and counting the threads of a process that
// had one.
//
// What a look would have to read of each process is as dear as seizing it. So
// what does not change is remembered, together with the number of the process's
// inode in /proc, which a listing gives for nothing.
//
// A stop is never consumed (see ptrace.Wait) and always ended by a detach that
// hands back the signal that the task was about to take. Other signals wait in
// the kernel. A process that SIGSTOP has stopped stays so. A program that lost
// its privileges because it was started by a tracee is started again: see
// restartExec.
//
// # Which processes belong to a group
//
// A process belongs to the group that its record names, else to that of its
// parent, else to the one that the variable FREEZER_GROUP in its environment
// names. The holes: a process whose parent ended before anybody froze the group
// belongs to it only when it has the variable (which `freezer run` sets), and has
// not been started with an environment of its own; a record is made of all
// members when a group is frozen.
//
// A tracer without privileges cannot hold what it may not trace: set-user-ID
// programs, processes of other users, and what somebody traces already. These
// are blockers.
package tracer
