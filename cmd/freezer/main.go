// Freezer freezes and thaws groups of Linux tasks without their noticing.
//
//	freezer run -g sim -- ./simulation   # runs in the group sim
//	freezer freeze sim                   # returns when each task is frozen
//	freezer why sim                      # or says what keeps it from that
//	freezer thaw sim
//
// It is a face of the package freezer and decides nothing by itself. The file
// system, the demonstration and whatever else runs long are the program
// freezerd's, which it starts.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/cgfreezer/freezer"
)

const about = "Freeze and thaw groups of Linux tasks without their noticing."

func main() { os.Exit(execute(os.Args[1:])) }

// globals are the flags that each command has.
type globals struct {
	Root    string `env:"FREEZER_ROOT" placeholder:"DIR" help:"The cgroup directory that holds the tree of groups."`
	Backend string `env:"FREEZER_BACKEND" placeholder:"NAME" enum:"cgroup2,cgroup1,ptrace," default:"" help:"How to freeze: cgroup2, cgroup1 or ptrace."`
	JSON    bool   `name:"json" help:"Write JSON."`
}

// A command is one word of the command line. What cmd is has the flags and
// arguments, a method Run(*session) error and, if there is more to say than
// help does, Help() string.
type command struct {
	name, help string
	cmd        runner
	hidden     bool
}

// commands are in the order in which help lists them.
func commands() []command {
	return []command{
		{name: "run", help: "Run a program in a group.", cmd: &runCmd{}},
		{name: "add", help: "Move processes into a group.", cmd: &addCmd{}},
		{name: "freeze", help: "Freeze groups, and wait until they are frozen.", cmd: &freezeCmd{}},
		{name: "thaw", help: "Let groups run again.", cmd: &thawCmd{}},
		{name: "holds", help: "List who holds groups frozen, and why.", cmd: &holdsCmd{}},
		{name: "state", help: "Print THAWED, FREEZING or FROZEN.", cmd: &stateCmd{}},
		{name: "ls", help: "List the groups.", cmd: &lsCmd{}},
		{name: "ps", help: "List a group's processes.", cmd: &psCmd{}},
		{name: "why", help: "Explain a group's state, and what keeps it from being frozen.", cmd: &whyCmd{}},
		{name: "watch", help: "Tell what happens to groups as it happens.", cmd: &watchCmd{}},
		{name: "exec", help: "Run a program in a group that is not frozen.", cmd: &execCmd{}},
		{name: "kill", help: "Kill all tasks of groups, frozen or not.", cmd: &killCmd{}},
		{name: "rm", help: "Remove groups.", cmd: &rmCmd{}},
		{name: "check", help: "List what keeps a group from being checkpointed.", cmd: &checkCmd{}},
		{name: "checkpoint", help: "Write all that a group's processes are to an image.", cmd: &checkpointCmd{}},
		{name: "migrate", help: "Move a group's processes to another host.", cmd: &migrateCmd{}},
		{name: "restore", help: "Start the processes of an image again.", cmd: &restoreCmd{}},
		{name: "inspect", help: "Show what is in an image.", cmd: &inspectCmd{}},
		{name: "verify", help: "Check that an image is whole.", cmd: &verifyCmd{}},
		{name: "mount", help: "Show the groups as a file system.", cmd: &mountCmd{}},
		{name: "umount", help: "Take that file system away.", cmd: &umountCmd{}},
		{name: "doctor", help: "Show what this host can do.", cmd: &doctorCmd{}},
		{name: "demo", help: "See it at work, on processes of its own.", cmd: &demoCmd{}},
		{name: "version", help: "Print the version.", cmd: &versionCmd{}},
		{name: "completion", help: "Print a shell's completion script.", cmd: &completionCmd{}},
		{name: "man", help: "Print the manual page.", cmd: &manCmd{}},
		{name: "complete", help: "What completion scripts ask.", cmd: &completeCmd{}, hidden: true},
		{name: "receive", help: "The other side of migrate.", cmd: &receiveCmd{}, hidden: true},
		{name: "keeper", help: "End leases (started by this program itself).", cmd: &keeperCmd{}, hidden: true},
	}
}

// parser builds the model of the command line. Building it takes as long as
// freezing does, so that only one command is put in where args begin with its
// name.
func parser(g *globals, args []string) (*kong.Kong, error) {
	all := commands()
	for _, c := range all {
		if len(args) > 0 && args[0] == c.name {
			all = []command{c}
			break
		}
	}
	options := []kong.Option{kong.Name("freezer"), kong.Description(about), kong.ConfigureHelp(kong.HelpOptions{Compact: true})}
	for _, c := range all {
		var tags []string
		if c.hidden {
			tags = append(tags, `hidden:""`)
		}
		options = append(options, kong.DynamicCommand(c.name, c.help, "", c.cmd, tags...))
	}
	return kong.New(g, options...)
}

// execute runs one command line and returns the exit status.
func execute(args []string) int {
	s := &session{}
	cmd := quick(&s.globals, args)
	if cmd == nil {
		k, err := parser(&s.globals, args)
		if err != nil {
			return fail(err)
		}
		ctx, err := k.Parse(args)
		if err != nil {
			return misuse(err)
		}
		cmd = ctx.Selected().Target.Addr().Interface().(runner)
	}
	err := cmd.Run(s)
	if _, werr := s.out.WriteTo(os.Stdout); err == nil {
		err = werr
	}
	status := 0
	if err != nil {
		status = fail(err)
	}
	s.mind(status)
	if err != nil {
		s.die()
	}
	return status
}

type runner interface{ Run(*session) error }

// A session is what a command's Run gets.
type session struct {
	globals
	signals
	out    bytes.Buffer                  // what goes to standard output in the end
	minded []func(context.Context) error // to wait for: see mind
}

// open opens the tree that the global flags ask for.
func (s *session) open() (*freezer.Freezer, error) { return freezer.Open(s.options()...) }

func (s *session) options() (opts []freezer.Option) {
	if s.Root != "" {
		opts = append(opts, freezer.WithRoot(s.Root))
	}
	if s.Backend != "" {
		opts = append(opts, freezer.WithBackend(s.Backend))
	}
	return opts
}

// groups opens the tree and finds groups in it by name.
func (s *session) groups(names ...string) (freezer.Gang, error) {
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	gang := make(freezer.Gang, len(names))
	for i, name := range names {
		if gang[i], err = f.Group(name); err != nil {
			return nil, err
		}
	}
	return gang, nil
}

// json writes v, whose lists are never null.
func (s *session) json(v any) error {
	e := json.NewEncoder(&s.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// each does something with each group, whatever becomes of the others.
func each(gang freezer.Gang, do func(*freezer.Group) error) error {
	var errs []error
	for _, g := range gang {
		if err := do(g); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// say writes a remark, which is no result, for the user to read.
func say(text string) { _, _ = io.WriteString(os.Stderr, "freezer: "+printable(text)+"\n") }
