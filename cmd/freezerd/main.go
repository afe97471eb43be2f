// Freezerd has the parts of the project that run long or weigh much: the server
// of the file system, and the demonstration. The program freezer starts it; so
// does mount(8), which calls it mount.freezer.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/cgfreezer/freezer"
)

// version is set by the linker.
var version = "unknown"

// Exit statuses, besides 0.
const (
	failed      = 1
	usage       = 2
	unavailable = 69 // EX_UNAVAILABLE: no way to freeze on this host
)

// globals are the flags that each command has.
type globals struct {
	Root    string           `env:"FREEZER_ROOT" placeholder:"DIR" help:"The cgroup directory that holds the tree of groups."`
	Backend string           `env:"FREEZER_BACKEND" placeholder:"NAME" enum:"cgroup2,cgroup1,ptrace," default:"" help:"How to freeze: cgroup2, cgroup1 or ptrace."`
	Version kong.VersionFlag `help:"Print the version."`
}

// open opens the tree that the flags name.
func (g *globals) open(opts ...freezer.Option) (*freezer.Freezer, error) {
	if g.Root != "" {
		opts = append(opts, freezer.WithRoot(g.Root))
	}
	if g.Backend != "" {
		opts = append(opts, freezer.WithBackend(g.Backend))
	}
	return freezer.Open(opts...)
}

// commands are the command line. What is no part of the file system adds itself
// to Plugins, in the init of its file.
var commands struct {
	globals
	Mount  mountCmd  `cmd:"" help:"Show the groups as a file system."`
	Umount umountCmd `cmd:"" help:"Take that file system away."`
	kong.Plugins
}

func main() {
	if filepath.Base(os.Args[0]) == helperName {
		os.Exit(mountHelper(os.Args[1:]))
	}
	os.Exit(execute(os.Args[1:]))
}

func execute(args []string) int {
	k, err := kong.New(&commands, kong.Name("freezerd"), kong.Description("The long-running parts of freezer."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.Vars{"version": version})
	if err != nil {
		return report(err)
	}
	ctx, err := k.Parse(args)
	if err != nil {
		return report(usageError{fmt.Errorf("%w (see freezerd --help)", err)})
	}
	return report(ctx.Run(&commands.globals))
}

// A usageError is about the command line.
type usageError struct{ error }

// report says what failed and returns the exit status.
func report(err error) int {
	if err == nil {
		return 0
	}
	var child *exec.ExitError
	if errors.As(err, &child) { // it has said so itself
		return child.ExitCode()
	}
	fmt.Fprintf(os.Stderr, "freezerd: %v\n", err)
	var misuse usageError
	switch {
	case errors.As(err, &misuse):
		return usage
	case errors.Is(err, freezer.ErrNoBackend):
		return unavailable
	}
	return failed
}
