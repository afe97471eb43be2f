package freezerfs

import (
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/audit"
)

// A releaser runs the release agent when the last task of a group leaves it and
// it has no children, or when its last child is removed and it has no tasks, if
// the group's notify_on_release is set. The kernel does so only for the top of a
// cgroup1 hierarchy.
//
// Of all servers of a tree only one does it: the one that has the lock. It
// learns of everything by inotify, whoever does it. Rather than miss a task that
// comes and goes it runs the agent twice.
type releaser struct {
	fs *fileSystem

	mu      sync.Mutex
	running bool
	stopped bool              // for good
	lock    int               // a descriptor, when running
	wake    int               // an eventfd, when running
	leading bool              // has the lock
	idle    bool              // leading, and there is no agent
	waiting []chan<- struct{} // to be closed when all that was done before is known
}

// start has the releaser work as long as the tree's root is there.
func (r *releaser) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running || r.stopped {
		return
	}
	// The lock is on a file that nothing else locks. It goes with the process.
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if r.fs.f.Backend() == freezer.Ptrace {
		flags |= unix.O_CREAT
	}
	lock, err := unix.Open(r.fs.agentKeeper(), flags, 0o600)
	if err != nil {
		return // the root is gone; who makes it again comes here again
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(lock)
		r.complain(err)
		return
	}
	r.running, r.lock, r.wake = true, lock, wake
	r.lead()
	go r.run(lock)
}

// stop ends it, but for agents that run.
func (r *releaser) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.ring()
}

// ring wakes the releaser up. The caller holds mu.
func (r *releaser) ring() {
	if r.running {
		_, _ = unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// lead makes this server the one that runs the agent if there is no other, and
// says whether it is. The caller holds mu.
func (r *releaser) lead() bool {
	if r.running && !r.leading {
		r.leading = unix.Flock(r.lock, unix.LOCK_EX|unix.LOCK_NB) == nil
	}
	return r.leading
}

// settle waits until the releaser knows of what was just done, so that it misses
// nothing from now on; not longer than the grace. If the server that ran the agent
// until now has died, this one takes its place before anything can be missed.
func (r *releaser) settle() {
	r.mu.Lock()
	if !r.lead() {
		r.mu.Unlock()
		return
	}
	settled := make(chan struct{})
	r.waiting = append(r.waiting, settled)
	r.ring()
	r.mu.Unlock()
	select {
	case <-settled:
	case <-time.After(r.fs.opts.Grace):
	}
}

// made tells of a new group: settle, unless there is no agent.
func (r *releaser) made() {
	r.mu.Lock()
	idle := r.idle
	r.mu.Unlock()
	if !idle {
		r.settle()
	}
}

// take returns who waits.
func (r *releaser) take() []chan<- struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	var count [8]byte
	_, _ = unix.Read(r.wake, count[:])
	waiting := r.waiting
	r.waiting = nil
	return waiting
}

// tell closes the channels of those who wait, now or, if it was too early, when
// it is time.
func (r *releaser) tell(waiting []chan<- struct{}, now bool) {
	if !now {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.waiting = append(r.waiting, waiting...)
		return
	}
	for _, settled := range waiting {
		close(settled)
	}
}

func (r *releaser) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

func (r *releaser) run(lock int) {
	defer r.end()
	for unix.Flock(lock, unix.LOCK_EX) == unix.EINTR { // until the server that has it ends
	}
	r.mu.Lock()
	r.leading = true
	r.mu.Unlock()
	occupied := map[uint64]bool{}
	for again := true; again && !r.over(); {
		again, occupied = r.watch(occupied)
	}
}

// end gives up the lock. Nobody is told anything any more.
func (r *releaser) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, settled := range r.waiting {
		close(settled)
	}
	r.waiting = nil
	r.running, r.leading, r.idle = false, false, false
	unix.Close(r.lock)
	unix.Close(r.wake)
}

// watch works until something makes it necessary to begin anew (again), or
// the end has come. occupied are the groups, by number, that had tasks or children
// when it was last looked at them; it returns those that have now.
func (r *releaser) watch(occupied map[uint64]bool) (again bool, _ map[uint64]bool) {
	agent := r.fs.agent()
	r.mu.Lock()
	r.idle = agent == ""
	r.mu.Unlock()
	w, err := newWatcher(r.fs, agent != "", occupied)
	if err != nil {
		r.complain(err)
		return false, nil
	}
	defer w.close()
	for ; !r.over(); w.sleep(r.wake) {
		waiting := r.take()
		w.read() // all that was before it is known now
		again = w.lost || r.fs.agent() != agent
		if !again {
			for _, path := range w.released() {
				go runAgent(agent, path)
			}
		}
		r.tell(waiting, !again)
		switch {
		case w.rootGone:
			return false, nil
		case again:
			return true, w.occupied()
		}
	}
	return false, nil
}

func (r *releaser) complain(err error) {
	audit.Record(audit.Event{Op: "watch for empty groups of", Group: "/", Dir: r.fs.f.Root(), Err: err})
}

// agentsAtOnce bounds how many run at a time.
var agentsAtOnce = make(chan struct{}, 8)

// runAgent runs the program as the kernel does: with the group's path from the
// root of the mount as its argument, and this environment.
func runAgent(agent, path string) {
	agentsAtOnce <- struct{}{}
	defer func() { <-agentsAtOnce }()
	cmd := exec.Command(agent, path)
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=/", "PATH=/sbin:/bin:/usr/sbin:/usr/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		audit.Record(audit.Event{Op: "run " + agent + " for", Group: path, Err: err})
	}
}
