package freezer

import (
	"fmt"
	"syscall"

	"github.com/cgfreezer/freezer/internal/ptrace/tracer"
)

// Mark returns a variable, NAME=VALUE, for the environment of a program that is
// to be started in a group of the tree. It is empty where the kernel knows what
// belongs to a group; where it does not (the backend Ptrace), descendants whose
// parents have ended belong to the group because of it.
func (f *Freezer) Mark(group string) (variable string, err error) {
	g, err := f.Group(group)
	if err != nil {
		return "", err
	}
	if h, ok := g.backend.hierarchy.(keptHierarchy); ok {
		variable, err = h.Mark(g.dir)
	}
	return variable, opError("mark for", group, err)
}

// MustRun says whether programs can be frozen only when Run has started them: on
// the backend Ptrace where the kernel lets a user trace descendants only
// (kernel.yama.ptrace_scope is 1).
func (f *Freezer) MustRun() bool { return f.backend.name == Ptrace && tracer.NeedsRunner() }

// Run starts a program in a group that exists, as the child of a process that may
// trace it and lives as long as any of its descendants, and waits for its end. It
// returns the program's status, or the signal that ended it. It is for MustRun,
// and else ErrUnsupported: there a program can be started in any way, and added.
//
// The program has the caller's terminal, files and process group; signals that
// would end the caller are passed on to it.
func (f *Freezer) Run(group, program string, argv []string) (status int, by syscall.Signal, err error) {
	g, err := f.Group(group)
	if err != nil {
		return 0, 0, err
	}
	h, ok := g.backend.hierarchy.(*tracer.Hierarchy)
	if !ok {
		return 0, 0, opError("run in", group, fmt.Errorf("%w: not needed on %s", ErrUnsupported, g.backend.name))
	}
	status, by, err = h.Run(g.dir, program, argv)
	return status, by, opError("run in", group, err)
}
