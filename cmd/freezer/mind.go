package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// invisibleFlag is off, on, or restart.
type invisibleFlag struct{ option func() freezer.FreezeOption }

// IsBool lets the flag stand alone.
func (*invisibleFlag) IsBool() bool { return true }

// Decode reads what stands after =, if anything does.
func (v *invisibleFlag) Decode(ctx *kong.DecodeContext) error {
	v.option = freezer.Invisible
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	switch word := fmt.Sprint(ctx.Scan.Pop().Value); word {
	case "restart":
		v.option = freezer.InvisibleRestart
	case "true":
	case "false":
		v.option = nil
	default:
		return fmt.Errorf("%q is not known: --invisible or --invisible=restart", word)
	}
	return nil
}

// An invisible thaw is not over when the group runs: system calls that started
// again with what was left of their timeouts are minded until they return, by
// the process that thawed. So that the user need not wait, that is another one,
// which does all that the command does and then stays.

// minderEnv tells that process so; descriptor 3 is then for its exit status.
const minderEnv = "FREEZER_MINDER"

// delegated has another process do what the command is to do, when one of the
// groups needs a minder then. done is false when none does, or it is that process
// that asks.
func delegated(gang freezer.Gang, needs func(*freezer.Group) bool) (done bool, err error) {
	if os.Getenv(minderEnv) != "" || !slices.ContainsFunc(gang, needs) {
		return false, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return false, err
	}
	status, tell, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer status.Close()
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), minderEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{tell}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return false, err
	}
	word, _ := io.ReadAll(status)
	if len(word) == 0 {
		return true, errors.Join(errors.New("the process that was to do it ended"), cmd.Wait())
	}
	if word[0] != 0 {
		return true, &statusError{status: int(word[0])}
	}
	return true, nil
}

// thawNeedsMinder says so of a group: those that are frozen by ptrace have a tracer.
func thawNeedsMinder(g *freezer.Group) bool {
	return g.Backend() == freezer.Cgroup2 && g.ThawsInvisibly()
}

// leaveTerminal gives up what the user sees of this process, which stays.
func leaveTerminal() {
	_ = os.Chdir("/")
	if null, err := unix.Open(os.DevNull, unix.O_RDWR, 0); err == nil {
		for fd := range 3 {
			_ = unix.Dup3(null, fd, 0)
		}
		unix.Close(null)
	}
}

// mind tells the exit status to who waits for it, leaves the terminal, and stays
// until all calls have returned.
func (s *session) mind(status int) {
	if os.Getenv(minderEnv) == "" {
		return
	}
	_, _ = unix.Write(3, []byte{byte(status)})
	_, _ = unix.Setsid()
	leaveTerminal()
	unix.Close(3)
	for _, settled := range s.minded {
		_ = settled(context.Background())
	}
}
