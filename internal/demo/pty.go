package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A terminal is a pseudo-terminal with a program on it: we are the user, who
// types, and looks at what appears.
type terminal struct {
	master *os.File
	leader *exec.Cmd // the session's leader, as a login shell is

	mu      sync.Mutex
	screen  string // all that has appeared
	printed int    // how much of it was passed on by news
	over    bool   // nobody has the terminal open any more
}

// patience bounds every wait for something that should happen at once.
const patience = 10 * time.Second

// openTerminal makes a terminal for a program that is not started yet.
func openTerminal(name string, args ...string) (*terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "/dev/ptmx")}
	slave, err := openSlave(fd)
	if err != nil {
		_ = t.master.Close()
		return nil, fmt.Errorf("terminal: %w", err)
	}
	t.leader = exec.Command(name, args...)
	t.leader.Stdin, t.leader.Stdout, t.leader.Stderr = slave, slave, slave
	t.leader.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	// The user's own settings stay out, and so does everything that would draw
	// on the screen instead of just writing lines.
	t.leader.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "TERM=dumb",
		"INPUTRC=/dev/null", "HISTFILE=", "DEBUGINFOD_URLS=", "SHLVL=0", "PS1=bash$SHLVL$ ",
	}
	return t, nil
}

func openSlave(master int) (*os.File, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	// So many lines that no program wants to pause after a page.
	if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: 1000, Col: 100}); err != nil {
		return nil, err
	}
	// Opened by the master: its path may be another one, or none, in a container.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, errno
	}
	return os.NewFile(slave, "terminal"), nil
}

// run starts the program by means of start, and looks at the screen from then on.
func (t *terminal) run(start func(*exec.Cmd) error) error {
	err := start(t.leader)
	_ = t.leader.Stdin.(*os.File).Close() // the program has it now
	if err == nil {
		go t.watch()
	}
	return err
}

func (t *terminal) watch() {
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		t.mu.Lock()
		t.screen += strings.ReplaceAll(string(buf[:max(n, 0)]), "\r", "")
		t.over = err != nil
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// hungUp says whether all programs on the terminal have ended.
func (t *terminal) hungUp() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// Close hangs up.
func (t *terminal) Close() error { return t.master.Close() }

// pid is the PID of the terminal's first program.
func (t *terminal) pid() int { return t.leader.Process.Pid }

// foreground is the process group that has the terminal.
func (t *terminal) foreground() int {
	conn, err := t.master.SyscallConn()
	if err != nil {
		return 0
	}
	pgrp := 0
	_ = conn.Control(func(fd uintptr) { pgrp, _ = unix.IoctlGetInt(int(fd), unix.TIOCGPGRP) })
	return pgrp
}

// mark is a place on the screen: its end now.
func (t *terminal) mark() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.screen)
}

// since is what has appeared since mark.
func (t *terminal) since(mark int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.screen[mark:]
}

// news is what has appeared since the last call.
func (t *terminal) news() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := t.screen[t.printed:]
	t.printed = len(t.screen)
	return text
}

// press types keys.
func (t *terminal) press(keys string) error {
	_, err := t.master.WriteString(keys)
	return err
}

// await waits until what has appeared since mark matches.
func (t *terminal) await(ctx context.Context, mark int, want *regexp.Regexp) error {
	seen := func() bool { return want.MatchString(t.since(mark)) }
	if until(ctx, patience, func() bool { return seen() || t.hungUp() }) && seen() {
		return nil
	}
	return broken(ctx, "the terminal never showed %q, but %q", want, t.since(mark))
}

// ask types a line, waits for the prompt, and returns what was answered,
// without the echo and the prompt.
func (t *terminal) ask(ctx context.Context, line string, prompt *regexp.Regexp) (string, error) {
	mark := t.mark()
	if err := t.press(line + "\n"); err != nil {
		return "", err
	}
	if err := t.await(ctx, mark, prompt); err != nil {
		return "", err
	}
	return reply(t.since(mark)), nil
}

// reply is what stands between the first and the last line.
func reply(text string) string {
	_, rest, _ := strings.Cut(text, "\n")
	return rest[:strings.LastIndexByte(rest, '\n')+1]
}

// until waits until ok is true, or the time is up, or ctx ends.
func until(ctx context.Context, limit time.Duration, ok func() bool) bool {
	for start, nap := time.Now(), time.Millisecond; !ok(); nap = min(2*nap, 20*time.Millisecond) {
		if ctx.Err() != nil || time.Since(start) > limit {
			return false
		}
		pause(ctx, nap)
	}
	return true
}

// broken is the error for something that until did not see.
func broken(ctx context.Context, format string, args ...any) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf(format, args...)
}

// pause waits a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// isTerminal says whether a file is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
