package demo

import (
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// A Report says what was seen, to a reader and to the caller. It stops where an
// interruption comes: what is seen after that means nothing.
type Report struct {
	Seen    []Observation
	Skipped []string // what was not shown, and why

	out    io.Writer
	colour bool
	done   <-chan struct{} // closed by an interruption
	err    error           // the first error of out
	blank  bool            // the last line was empty
	line   string          // of the terminal: the line that is not complete yet
	shown  bool            // it was printed already
}

// An Observation is one thing that was looked at. Those that say how signals
// are seen are facts, true on this machine, and always Good; those on freezing
// are Good when they are as the specification has it.
type Observation struct {
	About string // what was looked at, a short name for programs
	Text  string
	Good  bool
}

// Good says whether all that ran behaved as the specification says.
func (r *Report) Good() bool {
	for _, o := range r.Seen {
		if !o.Good {
			return false
		}
	}
	return true
}

// The styles of SGR (see console_codes(4)).
const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (r *Report) style(code, text string) string {
	if !r.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (r *Report) interrupted() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (r *Report) print(lines ...string) {
	for _, line := range lines {
		if r.interrupted() {
			return
		}
		if _, err := fmt.Fprintln(r.out, line); err != nil && r.err == nil {
			r.err = err
		}
		r.blank = line == ""
	}
}

// gap sees to it that an empty line comes before what follows.
func (r *Report) gap() {
	r.flush()
	if !r.blank {
		r.print("")
	}
}

// title begins a scene.
func (r *Report) title(text string) {
	r.gap()
	r.print(r.style(bold, text))
}

// say prints a paragraph.
func (r *Report) say(format string, args ...any) {
	r.gap()
	r.print(wrap(fmt.Sprintf(format, args...), "  ")...)
	r.gap()
}

// does prints a command that stands for what the demonstration does, and what
// came of it.
func (r *Report) does(command, result string) {
	r.flush()
	if result == "" {
		r.print("    " + r.style(faint, "#") + " " + r.style(cyan, command))
		return
	}
	r.print("    " + r.style(faint, "#") + " " + r.style(cyan, fmt.Sprintf("%-50s", command)) + " " + result)
}

// adds prints what comes of a command, or beside it.
func (r *Report) adds(text string) { r.print(wrap(text, "      ")...) }

// terminal prints what appeared on a terminal, line by line. A line that is not
// complete is kept until it is, or something else is to be printed.
func (r *Report) terminal(news string) {
	for news != "" {
		text, rest, complete := strings.Cut(news, "\n")
		if text != "" {
			r.line, r.shown = r.line+text, false
		}
		if complete {
			r.showLine()
			r.line, r.shown = "", false
		}
		news = rest
	}
}

func (r *Report) flush() {
	if r.line != "" {
		r.showLine()
	}
}

func (r *Report) showLine() {
	if !r.shown {
		r.print(strings.TrimRight("    "+r.style(faint, "|")+" "+printable(r.line), " "))
	}
	r.shown = true
}

// hangUp forgets the line of a terminal that is gone.
func (r *Report) hangUp() {
	r.flush()
	r.line, r.shown = "", false
}

// printable leaves out what would not be text on the reader's terminal.
func printable(line string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, strings.ReplaceAll(line, "\t", "    "))
}

// saw notes a fact.
func (r *Report) saw(about, format string, args ...any) {
	r.note(Observation{about, fmt.Sprintf(format, args...), true}, r.style(bold, "saw"))
}

// check notes whether it is true what the specification says.
func (r *Report) check(about string, good bool, format string, args ...any) {
	text, mark := fmt.Sprintf(format, args...), r.style(green, "ok ")
	if !good {
		text, mark = "Not so: "+text, r.style(red, "BAD")
	}
	r.note(Observation{about, text, good}, mark)
}

func (r *Report) note(o Observation, mark string) {
	if r.interrupted() {
		return
	}
	r.flush()
	r.Seen = append(r.Seen, o)
	lines := wrap(o.Text, "      ")
	r.print("  " + mark + strings.TrimPrefix(lines[0], "     "))
	r.print(lines[1:]...)
}

// skip says what is not shown.
func (r *Report) skip(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.Skipped = append(r.Skipped, text)
	r.say("Skipped: %s.", text)
}

// summary ends the report.
func (r *Report) summary(took time.Duration) {
	bad := 0
	for _, o := range r.Seen {
		if !o.Good {
			bad++
		}
	}
	r.gap()
	all := "All of it"
	if len(r.Skipped) > 0 {
		all = "All that was shown"
	}
	switch {
	case len(r.Seen) == 0:
		r.print("Nothing could be shown.")
	case bad == 0:
		r.print(fmt.Sprintf("%s is as the specification says. It took %.1f s and left nothing behind.", all, took.Seconds()))
	default:
		r.print(r.style(red, fmt.Sprintf("%d of %d observations are not as the specification says (BAD above).", bad, len(r.Seen))))
	}
}

// width is where paragraphs end.
const width = 78

// wrap breaks text into lines of at most width, each with the indentation.
func wrap(text, indent string) []string {
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// errnoName is the name of the errno that a file interface gives for err.
func errnoName(err error) string { return unix.ErrnoName(freezer.Errno(err)) }

// ms writes a duration in milliseconds, with no more digits than it deserves.
func ms(d time.Duration) string {
	n := float64(d) / float64(time.Millisecond)
	if n < 10 {
		return fmt.Sprintf("%.2g ms", n)
	}
	return fmt.Sprintf("%.0f ms", n)
}
