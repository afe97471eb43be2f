package demo

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// shellPrompt is the prompt of any of the shells, on a line of its own.
var shellPrompt = regexp.MustCompile(`(?:^|\n)bash\d\$ $`)

// shells is the scene with bash in bash: first as in the specification, by
// signals, then frozen.
func (s *stage) shells(ctx context.Context) error {
	s.title("1. A shell in a shell")
	if !s.has("bash", "sleep", "/dev/ptmx") {
		return nil
	}
	s.say("With signals: the inner shell is stopped and continued, as in the specification.")
	if err := s.signalShells(ctx); err != nil {
		return err
	}
	s.hangUp()
	s.say("With the freezer: another such pair; the inner shell counts, and is frozen meanwhile.")
	return s.freezeShells(ctx)
}

// nest starts a shell in a shell.
func (s *stage) nest(ctx context.Context) (t *terminal, inner int, err error) {
	if t, err = s.program("bash", "--norc", "--noprofile"); err != nil {
		return nil, 0, err
	}
	if err = t.await(ctx, 0, shellPrompt); err != nil {
		return nil, 0, err
	}
	for _, line := range []string{"echo $$", "bash --norc"} {
		if _, err = t.ask(ctx, line, shellPrompt); err != nil {
			return nil, 0, err
		}
	}
	inner, err = whoAnswers(ctx, t)
	s.terminal(t.news())
	return t, inner, err
}

// whoAnswers is the PID of the shell that the terminal talks to.
func whoAnswers(ctx context.Context, t *terminal) (int, error) {
	text, err := t.ask(ctx, "echo $$", shellPrompt)
	if err != nil {
		return 0, err
	}
	// Somebody else may print a line, too.
	for line := range strings.Lines(text) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no shell says its PID, but %q", text)
}

func (s *stage) signalShells(ctx context.Context) error {
	t, inner, err := s.nest(ctx)
	if err != nil {
		return err
	}
	mark := t.mark()
	if err := s.signal(inner, syscall.SIGSTOP); err != nil {
		return err
	}
	// The outer shell prompts again when it sees that its child is stopped.
	noticed := until(ctx, 2*time.Second, func() bool { return shellPrompt.MatchString(t.since(mark)) })
	s.terminal(t.news())
	taken := t.foreground() != inner
	if err := s.signal(inner, syscall.SIGCONT); err != nil {
		return err
	}
	ended, err := s.useTerminal(ctx, t, inner)
	if err != nil {
		return err
	}
	s.terminal(t.news())
	s.saw("shells signalled", "%s", tellShells(inner, noticed, taken, ended, !alive(t.pid())))
	return nil
}

// answered is what "echo $$" gives. The prompt need not come last: a shell that
// ends says so after the prompt of the other one.
var answered = regexp.MustCompile(`(?m)^\d+\n`)

// useTerminal goes on typing, as the user would, until one of the shells ends.
// It returns whether the inner one did.
func (s *stage) useTerminal(ctx context.Context, t *terminal, inner int) (ended bool, err error) {
	for range 4 {
		mark := t.mark()
		if err := t.press("echo $$\n"); err != nil {
			return false, err
		}
		until(ctx, 2*time.Second, func() bool { return t.hungUp() || answered.MatchString(t.since(mark)) })
		ended = until(ctx, 100*time.Millisecond, func() bool { return !alive(inner) })
		if ended || t.hungUp() {
			break
		}
	}
	pause(ctx, settleTime) // for its last words
	return ended, context.Cause(ctx)
}

func tellShells(inner int, noticed, taken, ended, outerEnded bool) string {
	var facts []string
	add := func(yes bool, text string) {
		if yes {
			facts = append(facts, text)
		}
	}
	add(noticed, "the outer shell saw the stop")
	add(taken, fmt.Sprintf("%d lost the terminal", inner))
	add(ended, "continued, it exited")
	add(outerEnded, "so did the outer shell")
	if len(facts) == 0 {
		return "This bash did not notice."
	}
	return strings.ToUpper(facts[0][:1]) + facts[0][1:] + strings.Join(append([]string{""}, facts[1:]...), "; ") + "."
}

// countLoop counts slowly, in the shell itself and a child for each step.
const (
	countLoop = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.05; done"
	counted   = "1\n2\n3\n4\n5\n6\n7\n8\n"
)

func (s *stage) freezeShells(ctx context.Context) error {
	t, inner, err := s.nest(ctx)
	if err != nil {
		return err
	}
	g, err := s.below("inner", inner)
	if err != nil {
		return err
	}
	start := t.mark()
	if err := t.press(countLoop + "\n"); err != nil {
		return err
	}
	if err := t.await(ctx, start, regexp.MustCompile(`\n3\n`)); err != nil {
		return err
	}
	if err := s.hold(ctx, "shells frozen", t, g, ""); err != nil {
		return err
	}
	if err := t.await(ctx, start, shellPrompt); err != nil {
		return err
	}
	count := reply(t.since(start))
	s.terminal(t.news())
	now, err := whoAnswers(ctx, t)
	if err != nil {
		return err
	}
	kept := t.foreground() == inner
	after, err := t.ask(ctx, "exit", shellPrompt)
	s.terminal(t.news())
	s.check("shells counted", count == counted, "It counted on where it was, and nobody said a word about it.")
	s.check("shells kept", now == inner && kept, "The inner shell is still %d, and has the terminal.", inner)
	s.check("shells ended", err == nil && after == "exit\n", "It ended when it was told to, and the outer shell went on.")
	return nil
}
