// Package freezer freezes and thaws groups of Linux tasks without their
// noticing, with the kernel's cgroup freezer: the unified hierarchy's or
// cgroup1's, whichever the host has; and by ptrace where the caller can write
// neither.
//
//	f, err := freezer.Open()
//	g, err := f.Create("sim")
//	err = g.Add(pid)               // a process, all its threads, all it will fork
//	err = g.Freeze(ctx)            // nil: each task is frozen
//	var late *freezer.FreezingError
//	if errors.As(err, &late) {     // matches EBUSY; the group stays FREEZING
//		fmt.Println(late.Blockers) // who, in which wait, and what would release it
//	}
//	err = g.Thaw()
//
// The kernel is the database: groups and their states live in the cgroups
// themselves. Any process can read and change them, a crash loses nothing, and
// no daemon is needed. A Freezer and its Groups are handles; all their methods
// may be called concurrently, by any number of processes.
//
// The package has no face: commands, file system and servers are elsewhere. It
// does not limit resources.
//
// On the backend Ptrace the kernel keeps nothing: groups are directories in the
// user's runtime directory, and a process of this package's holds the frozen
// tasks. It is this very program, started once more; when it is lost its groups
// thaw, and no task comes to harm. Which processes belong to a group is known
// less well there: see Freezer.Mark.
//
// # Caveats
//
// A frozen process still holds its locks, its memory and its network
// connections, and its peers' clocks run on. A task that somebody moves out of
// a frozen group runs. Names of groups can be reused by anybody who may make
// directories there: a handle means whatever group has the name now.
package freezer
