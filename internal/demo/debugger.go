package demo

import (
	"context"
	"regexp"
	"strings"
	"syscall"

	"github.com/cgfreezer/freezer/internal/proc"
)

var debuggerPrompt = regexp.MustCompile(`\(gdb\) $`)

// debugger is the scene with gdb, whose program is stopped by a signal, and
// then frozen: alone, and with gdb.
func (s *stage) debugger(ctx context.Context) error {
	s.title("2. A program in a debugger")
	if !s.has("gdb", "cat", "/dev/ptmx") {
		return nil
	}
	t, program, err := s.debug(ctx)
	if err != nil || program == 0 {
		return err
	}
	if err := s.signalProgram(ctx, t, program); err != nil {
		return err
	}
	return s.freezeProgram(ctx, t, program)
}

// debug starts cat in gdb; program is 0 when gdb may not trace here.
func (s *stage) debug(ctx context.Context) (t *terminal, program int, err error) {
	if t, err = s.program("gdb", "-q", "-nx", "cat"); err != nil {
		return nil, 0, err
	}
	if err = t.await(ctx, 0, debuggerPrompt); err != nil {
		return nil, 0, err
	}
	t.news() // what it says of symbols is of no interest
	mark := t.mark()
	if err = t.press("run\n"); err != nil {
		return nil, 0, err
	}
	reads := func() bool { program = t.foreground(); return program != t.pid() && readsKeys(t, program) }
	failed := func() bool { return debuggerPrompt.MatchString(t.since(mark)) }
	if !until(ctx, patience, func() bool { return reads() || failed() }) {
		return nil, 0, broken(ctx, "gdb does not run cat, but says %q", t.since(mark))
	}
	if failed() {
		s.skip("gdb cannot run a program here: %s", strings.Join(strings.Fields(reply(t.since(mark))), " "))
		return nil, 0, nil
	}
	return t, program, nil
}

// readsKeys says whether a program waits for input from the terminal. What is
// typed earlier is lost: gdb drops it when it hands the terminal over.
func readsKeys(t *terminal, program int) bool {
	st, err := proc.ReadStat(program)
	return err == nil && st.Command == "cat" && st.State == 'S' && t.foreground() == program
}

// greet types a line that cat repeats.
func greet(ctx context.Context, t *terminal, program int) error {
	if !until(ctx, patience, func() bool { return readsKeys(t, program) }) {
		return broken(ctx, "cat does not read from the terminal")
	}
	mark := t.mark()
	if err := t.press("hello\n"); err != nil {
		return err
	}
	return t.await(ctx, mark, regexp.MustCompile(`hello\nhello\n$`))
}

func (s *stage) signalProgram(ctx context.Context, t *terminal, program int) error {
	s.say("With signals: gdb runs cat, which repeats each line. cat is stopped.")
	if err := greet(ctx, t, program); err != nil {
		return err
	}
	s.terminal(t.news())
	mark := t.mark()
	if err := s.signal(program, syscall.SIGSTOP); err != nil {
		return err
	}
	if err := t.await(ctx, mark, debuggerPrompt); err != nil {
		return err
	}
	noticed := strings.Contains(t.since(mark), "SIGSTOP")
	err := t.press("signal 0\n")
	if err == nil {
		err = greet(ctx, t, program)
	}
	s.terminal(t.news())
	if noticed {
		s.saw("debugger signalled", "gdb saw the signal and took over; cat went on only when gdb was told to let it.")
	} else {
		s.saw("debugger signalled", "gdb did not notice.")
	}
	return err
}

func (s *stage) freezeProgram(ctx context.Context, t *terminal, program int) error {
	s.say("With the freezer: cat is frozen alone, then together with gdb. A line is typed each time.")
	both := s.scene
	alone, err := s.below("cat", program)
	if err != nil {
		return err
	}
	start := t.mark()
	const first, second = "cat is frozen\n", "both are frozen\n"
	err = s.hold(ctx, "debugger program frozen", t, alone, first)
	if err == nil {
		err = t.await(ctx, start, regexp.MustCompile(first+first))
	}
	if err == nil {
		err = s.hold(ctx, "debugger frozen", t, both, second)
	}
	if err == nil {
		err = t.await(ctx, start, regexp.MustCompile(second+second))
	}
	if err != nil {
		return err
	}
	silent := t.since(start) == first+first+second+second
	if err := t.press("\x04"); err != nil { // end of file
		return err
	}
	err = t.await(ctx, start, debuggerPrompt)
	s.terminal(t.news())
	s.check("debugger silent", silent, "gdb said nothing of either freeze, and cat answered all that was typed.")
	if err != nil {
		return err
	}
	code, err := t.ask(ctx, "print $_exitcode", debuggerPrompt)
	s.terminal(t.news())
	s.check("debugger ended", err == nil && strings.HasSuffix(code, " = 0\n"), "cat ended normally.")
	return err
}
