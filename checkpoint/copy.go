package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A copy is a fork of a stopped process, which shares all memory with it until one
// of the two writes: so the job goes on while the image is written. It has one
// thread, which never runs but to be asked, and no open file. It is no child of the
// job: a clone between the two has ended (see guestCode), so that it belongs to init
// or a subreaper, as any orphan, and nobody in the job has to wait for it.
//
// It dies with its tracer. Where that dies before it is told so, the copy ends by
// itself, at its next instruction.
type copied struct {
	pid  int
	room *room // like the one of the process
	regs ptrace.Regs
}

// copyOptions are those of a copy, and of the clone that forks it.
const copyOptions = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEFORK

// stopOptions are those of the job's tasks.
const stopOptions = unix.PTRACE_O_TRACESYSGOOD

// errNoCopy is of a process that could not be forked, for want of memory or
// because there are too many. It matches the reason, too.
var errNoCopy = errors.New("it cannot be copied")

// fork makes a copy of the guest's process. Whatever happens to this program
// meanwhile, the guest waits for the clone, which ends at once, and goes on. The clone
// is also what opens a userfaultfd, so that no file of the process's ever changes.
func (g *guest) fork(p *Process, since *tracking) (*copied, error) {
	if err := ptrace.SetOptions(g.tid, stopOptions|unix.PTRACE_O_TRACECLONE); err != nil {
		return nil, err
	}
	regs := g.own
	toFork(&regs, g.room)
	if err := ptrace.SetRegisters(g.tid, &regs); err != nil {
		return nil, err
	}
	if _, err := g.next(); err != nil { // it enters clone
		return nil, err
	}
	status, err := g.next()
	if err != nil {
		return nil, err
	}
	if status.Event() != unix.PTRACE_EVENT_CLONE {
		return nil, errors.Join(errNoCopy, g.failure())
	}
	between, err := ptrace.Message(g.tid)
	if err != nil {
		return nil, err
	}
	c, err := g.follow(between, p, since)
	if err == nil {
		c.regs = g.own
		twin := *g.room
		twin.pid = c.pid
		c.room = &twin
	}
	for range 3 { // it returns from clone, and waits
		if _, e := g.next(); e != nil {
			return c, e
		}
	}
	return c, errors.Join(err, ptrace.SetOptions(g.tid, stopOptions))
}

// next lets the guest go on to the next stop that is no signal's.
func (g *guest) next() (ptrace.Status, error) {
	for {
		if err := ptrace.NextSyscall(g.tid, 0); err != nil {
			return ptrace.Status{}, err
		}
		status, err := soon(g.tid)
		switch sig := status.Signal(); {
		case err != nil:
			return status, err
		case status.Ended():
			return status, unix.ESRCH
		case sig != 0 && sig != unix.SIGTRAP:
			g.stops = append(g.stops, sig)
		default:
			return status, nil
		}
	}
}

// failure is the error of the call from which the guest returns.
func (g *guest) failure() error {
	after, err := ptrace.Registers(g.tid)
	if err != nil {
		return err
	}
	return unix.Errno(-after.Result())
}

// follow lets the clone fork the copy, and end.
func (g *guest) follow(between int, p *Process, since *tracking) (*copied, error) {
	if err := born(between); err != nil {
		return nil, err
	}
	if err := ptrace.SetOptions(between, copyOptions); err != nil {
		return nil, err
	}
	if since != nil && since.pages[p.PID] == nil {
		if err := since.begin(g.room, between, p); err != nil {
			return nil, err
		}
	}
	var c *copied
	for {
		if err := ptrace.Continue(between, 0); err != nil {
			return c, err
		}
		status, err := soon(between)
		switch {
		case err != nil:
			return c, err
		case status.Ended() && c == nil:
			code, _ := status.ExitStatus()
			return nil, errors.Join(errNoCopy, unix.Errno(code))
		case status.Ended():
			return c, nil
		case status.Event() == unix.PTRACE_EVENT_FORK:
			pid, err := ptrace.Message(between)
			if err != nil {
				return nil, err
			}
			c = &copied{pid: pid}
			if err := born(pid); err != nil {
				return c, err
			}
		}
	}
}

// born waits for the first stop of a tracee.
func born(tid int) error {
	status, err := soon(tid)
	if err == nil && status.Ended() {
		err = unix.ESRCH
	}
	return err
}

// moveOut moves the copy out of its group, whose directory is dir, to where this
// program is, so that nobody meets it there. One that cannot be moved stays.
func (c *copied) moveOut(dir string, backend string) {
	in := func(pid int) string {
		all, _ := proc.Cgroups(pid)
		for _, cg := range all {
			if backend == freezer.Cgroup2 && cg.V2 || backend == freezer.Cgroup1 && cg.Has("freezer") {
				return cg.Path
			}
		}
		return ""
	}
	if path := in(c.pid); path != "" {
		if mount, ok := strings.CutSuffix(dir, path); ok {
			_ = kernfs.WriteFile(filepath.Join(mount, in(os.Getpid()), "cgroup.procs"), strconv.Itoa(c.pid))
		}
	}
}

// ask asks the copy for what it knows as well as its process, and then makes its
// memory that of the process again.
func (c *copied) ask(p *Process) error {
	g := &guest{room: c.room, tid: c.pid, own: c.regs}
	if err := g.askInherited(p); err != nil {
		return err
	}
	return c.room.close()
}

// end kills the copy.
func (c *copied) end() {
	_ = unix.Kill(c.pid, unix.SIGKILL)
	for {
		if status, err := soon(c.pid); err != nil || status.Ended() {
			return
		}
	}
}
