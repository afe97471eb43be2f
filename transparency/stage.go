package main

import (
	"bufio"
	"embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed subject
var source embed.FS

// A program is the compiled stage.
type program struct{ dir string }

func compile() (*program, error) {
	dir, err := os.MkdirTemp("", "transparency-")
	if err != nil {
		return nil, err
	}
	p := &program{dir}
	if err := os.CopyFS(dir, source); err != nil {
		return nil, err
	}
	files, _ := filepath.Glob(dir + "/subject/*.c")
	args := append([]string{"-O1", "-w", "-o", p.path()}, files...)
	out, err := exec.Command("gcc", append(args, "-lrt", "-lutil", "-lpthread")...).CombinedOutput()
	if err != nil {
		p.remove()
		return nil, fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return p, nil
}

func (p *program) path() string { return p.dir + "/stage" }
func (p *program) remove()      { _ = os.RemoveAll(p.dir) }

// A call is one that the stage can make; see struct call in subject/stage.h.
type call struct {
	name  string
	flags int
}

const (
	timed = 1 << iota
	hasEvent
	slow
	oneThread
)

func (p *program) list(names []string) ([]call, error) {
	out, err := exec.Command(p.path(), "", p.dir, "0", "l").Output()
	if err != nil {
		return nil, err
	}
	var calls []call
	for line := range strings.Lines(string(out)) {
		name, flags, _ := strings.Cut(strings.TrimSpace(line), "\t")
		n, _ := strconv.Atoi(flags)
		if len(names) == 0 || matches(name, names) {
			calls = append(calls, call{name, n})
		}
	}
	if len(calls) == 0 {
		return nil, fmt.Errorf("no such call: %s", strings.Join(names, ", "))
	}
	return calls, nil
}

func matches(name string, names []string) bool {
	for _, n := range names {
		if strings.Contains(name, n) {
			return true
		}
	}
	return false
}

// A stage is a running program with its subjects.
type stage struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	scratch string
	pids    []int
}

// start starts a subject for each call; each puts itself into the group first,
// if there is one.
func (p *program) start(calls []call, groupFile string, timeout int, options string) (*stage, error) {
	scratch, err := os.MkdirTemp(p.dir, "scratch-")
	if err != nil {
		return nil, err
	}
	if options == "" {
		options = "-"
	}
	args := []string{groupFile, scratch, strconv.Itoa(timeout), options}
	for _, c := range calls {
		args = append(args, c.name)
	}
	s := &stage{cmd: exec.Command(p.path(), args...), scratch: scratch}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 { // its queues and semaphores end with it
		s.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWIPC
	}
	s.cmd.Stderr = os.Stderr
	s.in, _ = s.cmd.StdinPipe()
	out, _ := s.cmd.StdoutPipe()
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for s.out.Scan() {
		f := strings.Fields(s.out.Text())
		if f[0] == "ready" {
			return s, nil
		}
		pid, _ := strconv.Atoi(f[1])
		s.pids = append(s.pids, pid)
	}
	return nil, fmt.Errorf("the stage ended early: %w", s.cmd.Wait())
}

func (s *stage) tell(line string) { _, _ = io.WriteString(s.in, line+"\n") }

// begin has all calls made, and returns when the last of them is to be made.
func (s *stage) begin() time.Duration {
	s.tell("go")
	s.out.Scan()
	n, _ := strconv.ParseInt(strings.TrimPrefix(s.out.Text(), "went "), 10, 64)
	return time.Duration(n)
}

// A sight is what one subject saw.
type sight struct {
	done                bool
	result              int
	began, ended        time.Duration // CLOCK_MONOTONIC
	handled, cont, told int
}

// report waits for the calls to end, but not longer than patience.
func (s *stage) report(patience time.Duration) map[string]sight {
	s.tell(fmt.Sprintf("report %d", patience.Milliseconds()))
	seen := map[string]sight{}
	for s.out.Scan() && s.out.Text() != "end" {
		f := strings.Split(s.out.Text(), "\t")
		if len(f) != 8 {
			continue
		}
		var n [7]int
		for i := range n {
			n[i], _ = strconv.Atoi(f[1+i])
		}
		seen[f[0]] = sight{n[0] != 0, n[1], time.Duration(n[2]), time.Duration(n[3]), n[4], n[5], n[6]}
	}
	return seen
}

func (s *stage) end() {
	_ = s.in.Close()
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.scratch)
}

// tasks lists all threads of the subjects.
func (s *stage) tasks() []int {
	var tids []int
	for _, pid := range s.pids {
		names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, name := range names {
			tid, _ := strconv.Atoi(filepath.Base(name))
			tids = append(tids, tid)
		}
	}
	return tids
}
