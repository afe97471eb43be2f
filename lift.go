package freezer

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Lifted calls do while the kernel lets the group's tasks run, and has it freeze
// them again afterwards, when do fails, too: for somebody who holds all of them in
// another way meanwhile, by ptrace, and has to make some of them do something. It is
// the same for the groups below that are frozen themselves. Holds stay what they
// are; do must be quick, as nobody can change them in that time.
//
// When this program dies meanwhile, whatever the moment, the groups are frozen again
// by a process that was started before (/bin/sh). The error is ErrUnsupported where
// groups are frozen by ptrace, and where an ancestor is freezing.
func (g *Group) Lifted(do func() error) (err error) {
	fail := func(err error) error { return opError("lift", g.name, err) }
	if g.backend.name == Ptrace {
		return fail(fmt.Errorf("%w: its tasks are held by ptrace already", ErrUnsupported))
	}
	if above, err := g.FrozenBy(); err != nil {
		return err
	} else if above != nil {
		above.Close()
		return fail(fmt.Errorf("%w: %s above it is freezing", ErrUnsupported, above.name))
	}
	frozen, err := g.freezingBelow()
	defer func() {
		for _, sub := range frozen {
			sub.Close()
		}
	}()
	if err != nil {
		return err
	}
	if len(frozen) == 0 {
		return do()
	}
	done, err := refreeze(frozen)
	if err != nil {
		return fail(err)
	}
	defer done()
	for _, sub := range frozen {
		defer sub.lock()()
	}
	defer func() {
		for _, sub := range frozen {
			err = errors.Join(err, fail(sub.cg.SetFreezing(true)))
		}
	}()
	for _, sub := range frozen {
		if err := sub.cg.SetFreezing(false); err != nil {
			return fail(err)
		}
	}
	return do()
}

// freezingBelow lists this group and those below it that are freezing themselves.
func (g *Group) freezingBelow() (frozen []*Group, err error) {
	all, err := g.Walk()
	if err != nil {
		return nil, err
	}
	for _, sub := range all {
		on, err := sub.cg.Freezing()
		if err != nil && err != unix.ENOENT {
			return frozen, opError("lift", sub.name, err)
		}
		if on {
			frozen = append(frozen, sub)
		} else {
			sub.Close()
		}
	}
	return frozen, nil
}

// refreeze starts a process that freezes the groups when this one dies before it
// has called done.
func refreeze(groups []*Group) (done func(), err error) {
	file, word := "cgroup.freeze", "1"
	if groups[0].backend.name == Cgroup1 {
		file, word = "freezer.state", Frozen.String()
	}
	args := []string{"-c", `read -r word || for file; do echo "$0" >"$file"; done`, word}
	for _, g := range groups {
		args = append(args, filepath.Join(g.dir, file))
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("nobody would freeze it again if this program died: %w", err)
	}
	return func() {
		_, _ = io.WriteString(in, "done\n")
		_ = cmd.Wait()
	}, nil
}
