package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct {
	Dir string `arg:"" optional:"" type:"path" help:"Where to write it, as freezer.1; without, to standard output."`
}

// Help is the part of the help that follows the flags.
func (*manCmd) Help() string { return `To read it: freezer man | man -l -` }

func (c *manCmd) Run(s *session) error {
	k, err := parser(&globals{}, nil)
	if err != nil {
		return err
	}
	page := manual(k.Model.Node)
	if c.Dir == "" {
		s.out.WriteString(page)
		return nil
	}
	return os.WriteFile(filepath.Join(c.Dir, "freezer.1"), []byte(page), 0o644)
}

// manual writes the page in the man macros of man(7).
func manual(app *kong.Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH FREEZER 1\n.SH NAME\nfreezer \\- %s\n", roff(lower(about)))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B freezer\n.RI [ options ]\n.I command\n.RI [ argument \\~.\\|.\\|.]\n")
	b.WriteString(".SH DESCRIPTION\n" + roff(description))
	b.WriteString(".SH OPTIONS\nThey can stand before and after each command.\n")
	writeFlags(&b, app.Flags)
	b.WriteString(".SH COMMANDS\n")
	for _, c := range app.Children {
		if !c.Hidden {
			writeCommand(&b, c)
		}
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, s := range statuses {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", s.code, roff(s.meaning))
	}
	b.WriteString(".PP\n" + roff("A program that run started has its own. One that a signal ended, as ^C does, has 128 and the signal's number in a shell.") + "\n")
	b.WriteString(".SH ENVIRONMENT\n")
	for _, f := range app.Flags {
		for _, env := range f.Envs {
			fmt.Fprintf(&b, ".TP\n.B %s\nThe same as \\fB\\-\\-%s\\fR.\n", roff(env), roff(f.Name))
		}
	}
	b.WriteString(".SH EXAMPLES\n.nf\n" + roff(examples) + ".fi\n")
	b.WriteString(".SH SEE ALSO\n.BR cgroups (7),\n.BR kill (1)\n")
	return b.String()
}

const description = `Freezing stops tasks where they are, without their noticing: unlike SIGSTOP it cannot be seen by the tasks, their parents or their debuggers.
A task is a thread; a group is a named set of tasks. What a task of a group starts is in the group, too. Groups are a tree: sim/a is a group below sim, and / is all of it.
A name that begins with a slash is a cgroup that exists already, a container's or a service's, by its path.
A group is THAWED, FREEZING or FROZEN. It is FREEZING from when that was asked for until each of its tasks is frozen, and freezes and thaws together with all groups below it.
Groups and states are the kernel's own. They last until the host is shut down, whatever becomes of this program.
`

const examples = `freezer run -g sim -- ./simulation --size 100
freezer add --tree sim 4711
freezer freeze sim
freezer why sim
freezer thaw sim
freezer freeze /system.slice/backup.service
freezer rm --kill sim
`

func writeCommand(b *strings.Builder, c *kong.Node) {
	fmt.Fprintf(b, ".SS freezer %s\\fR", roff(c.Name))
	for _, f := range c.Flags {
		if f.Required {
			fmt.Fprintf(b, " \\fB%s\\fR \\fI%s\\fR", flagName(f), roff(strings.ToUpper(f.Name)))
		}
	}
	if len(c.Flags) > 0 {
		b.WriteString(" [options]")
	}
	for _, p := range c.Positional {
		form := "\\fI" + roff(p.Name) + "\\fR"
		if p.IsCumulative() {
			form += "\\~.\\|.\\|."
		}
		if !p.Required {
			form = "[" + form + "]"
		}
		b.WriteString(" " + form)
	}
	b.WriteString("\n" + roff(c.Help) + "\n")
	if c.Detail != "" {
		b.WriteString(".PP\n" + roff(strings.ReplaceAll(c.Detail, "\n\n", "\n.PP\n")) + "\n")
	}
	for _, p := range c.Positional {
		fmt.Fprintf(b, ".TP\n.I %s\n%s\n", roff(p.Name), roff(p.Help))
	}
	writeFlags(b, c.Flags)
}

func writeFlags(b *strings.Builder, flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		fmt.Fprintf(b, ".TP\n\\fB%s\\fR", flagName(f))
		if !f.IsBool() {
			value := f.PlaceHolder
			if value == "" {
				value = strings.ToUpper(f.Name)
			}
			fmt.Fprintf(b, " \\fI%s\\fR", roff(value))
		}
		fmt.Fprintf(b, "\n%s", roff(f.Help))
		if f.HasDefault && f.Default != "" {
			fmt.Fprintf(b, " The default is %s.", roff(f.Default))
		}
		b.WriteString("\n")
	}
}

func flagName(f *kong.Flag) string {
	name := roff("--" + f.Name)
	if f.Short != 0 {
		name = roff("-"+string(f.Short)) + ", " + name
	}
	return name
}

func lower(s string) string { return strings.ToLower(s[:1]) + strings.TrimSuffix(s[1:], ".") }

// roff escapes text, except that a line may begin with a macro.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\&.\|.\|.`, "→", `\->`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	return strings.ReplaceAll(s, "\n'", "\n\\&'")
}
