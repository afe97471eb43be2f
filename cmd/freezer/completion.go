package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/cgfreezer/freezer/internal/proc"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is the part of the help that follows the flags.
func (*completionCmd) Help() string {
	return `To try it:
  bash: source <(freezer completion bash)
  zsh:  source <(freezer completion zsh)
  fish: freezer completion fish | source`
}

func (c *completionCmd) Run(s *session) error {
	s.out.WriteString(map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell])
	return nil
}

// The scripts ask this program what could follow, so that it is decided once
// for all shells: a line is a word, a tab and what it means; :files and
// :commands stand for what the shell knows better.
const (
	bashScript = `# bash completion for freezer
_freezer() {
	local IFS=$'\n' line word=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=()
	for line in $("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
		case $line in
		:files) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$word")) ;;
		:commands) COMPREPLY+=($(compgen -c -- "$word")) ;;
		*) COMPREPLY+=("$(printf %q "${line%%$'\t'*}")") ;;
		esac
	done
}
complete -F _freezer freezer
`

	zshScript = `#compdef freezer
_freezer() {
	local line found=1
	local -a words_ described
	for line in ${(f)"$(${words[1]} complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}; do
		case $line in
		:files) _files && found=0 ;;
		:commands) _command_names -e && found=0 ;;
		*) words_+=("${line%%$'\t'*}"); described+=("${line/$'\t'/  -- }") ;;
		esac
	done
	(( $#words_ )) && compadd -l -d described -a words_ && found=0
	return found
}
if [ "$funcstack[1]" = _freezer ]; then
	_freezer "$@"
else
	compdef _freezer freezer
fi
`

	fishScript = `# fish completion for freezer
function __freezer_complete
	set -l tokens (commandline -opc) (commandline -ct)
	for line in ($tokens[1] complete -- $tokens[2..-1] 2>/dev/null)
		switch $line
			case :files
				__fish_complete_path (commandline -ct)
			case :commands
				__fish_complete_command
			case '*'
				echo $line
		end
	end
end
complete -c freezer -f -a '(__freezer_complete)'
`
)

// completeCmd prints what could stand in the place of the last word.
type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

func (c *completeCmd) Run(s *session) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		words = []string{""}
	}
	k, err := parser(&globals{}, nil)
	if err != nil {
		return err
	}
	m := &completion{session: s, node: k.Model.Node}
	last := words[len(words)-1]
	for _, w := range words[:len(words)-1] {
		m.pass(w)
	}
	if m.flag != nil && last == "=" {
		last = ""
	}
	for _, candidate := range m.candidates(last) {
		if strings.HasPrefix(candidate, last) || strings.HasPrefix(candidate, ":") {
			fmt.Fprintln(&s.out, candidate)
		}
	}
	return nil
}

// A completion is where in a command line the words so far have led.
type completion struct {
	*session
	node  *kong.Node // the command
	flag  *kong.Flag // whose value comes next
	args  int        // how many arguments there were
	plain bool       // no more flags: -- was there
}

// pass takes one whole word.
func (m *completion) pass(word string) {
	switch {
	case m.flag != nil && word == "=": // bash makes a word of it
	case m.flag != nil:
		m.value(m.flag, word)
		m.flag = nil
	case word == "--" && !m.plain:
		m.plain = true
	case strings.HasPrefix(word, "-") && !m.plain:
		name, value, has := strings.Cut(word, "=")
		f := m.find(name)
		switch {
		case f == nil || f.IsBool():
		case has:
			m.value(f, value)
		default:
			m.flag = f
		}
	case len(m.node.Children) > 0:
		for _, child := range m.node.Children {
			if child.Name == word {
				m.node = child
				return
			}
		}
	default:
		m.args++
		m.plain = m.plain || m.position().PassthroughMode != kong.PassThroughModeNone
	}
}

// value remembers those flags that decide what the groups are.
func (m *completion) value(f *kong.Flag, value string) {
	switch f.Name {
	case "root":
		m.Root = value
	case "backend":
		m.Backend = value
	}
}

func (m *completion) find(name string) *kong.Flag {
	for _, f := range m.flags() {
		if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}

func (m *completion) flags() (all []*kong.Flag) {
	for _, group := range m.node.AllFlags(true) {
		all = append(all, group...)
	}
	return all
}

// position is the argument that comes next; the last one repeats.
func (m *completion) position() *kong.Positional {
	if n := len(m.node.Positional); n > 0 {
		return m.node.Positional[min(m.args, n-1)]
	}
	return &kong.Positional{}
}

func (m *completion) candidates(word string) (out []string) {
	switch {
	case m.flag != nil:
		return m.values(m.flag.Value)
	case strings.HasPrefix(word, "-") && !m.plain:
		if name, _, has := strings.Cut(word, "="); has {
			if f := m.find(name); f != nil {
				for _, v := range m.values(f.Value) {
					out = append(out, name+"="+v)
				}
			}
			return out
		}
		for _, f := range m.flags() {
			out = append(out, "--"+f.Name+"\t"+f.Help)
		}
		return out
	case len(m.node.Children) > 0:
		for _, child := range m.node.Children {
			if !child.Hidden {
				out = append(out, child.Name+"\t"+child.Help)
			}
		}
		return out
	case len(m.node.Positional) > m.args || m.position().IsCumulative():
		return m.values(m.position())
	}
	return nil
}

// values lists what a flag or an argument could be.
func (m *completion) values(v *kong.Value) []string {
	if v.Enum != "" {
		return strings.Split(strings.Trim(v.Enum, ","), ",")
	}
	switch v.Name {
	case "group":
		return m.groupNames()
	case "pid":
		return processes()
	case "dir", "root", "image", "output", "stdin", "stdout", "stderr":
		return []string{":files"}
	case "command":
		if m.args == 0 {
			return []string{":commands"}
		}
		return []string{":files"}
	}
	return nil
}

// groupNames lists all groups of the tree.
func (m *completion) groupNames() []string {
	f, err := m.open()
	if err != nil {
		return nil
	}
	groups, _ := f.Groups()
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = g.Name()
	}
	return names
}

// processes lists the processes that could be moved.
func processes() (out []string) {
	for _, pid := range proc.All() {
		if s, err := proc.ReadStat(pid); err == nil && !s.KernelThread() {
			out = append(out, fmt.Sprintf("%d\t%s", pid, cell(s.Command)))
		}
	}
	return out
}
