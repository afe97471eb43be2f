package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/ptrace"
)

// Where the PIDs of a job are taken it can have a PID namespace of its own
// (pid_namespaces(7)), and with it a mount namespace, in which /proc shows that one.
// The nursery is its first process then, and stays: it waits for all that have no
// other parent, tells how the job's first process ended, and ends when nobody is left.
// To the namespace of the caller the processes have other PIDs, which the freezer's
// groups and the caller's ptrace and /proc use.

// A namespace is what a job with a namespace of its own is built with.
type namespace struct {
	before   int      // the mount namespace of the caller's thread
	place    string   // its working directory
	status   *os.File // from which the end of the job's first process is read
	statusFD int      // where it is written, among the restorer's files
}

// thread calls do on a thread of its own, which traces the tasks as long as calls of
// theirs are minded. One that was in other namespaces ends then.
func (r *restorer) thread(do func()) {
	runtime.LockOSThread()
	if r.own == nil {
		defer runtime.UnlockOSThread()
	} else if unix.Gettid() == unix.Getpid() { // the first thread cannot end
		defer runtime.UnlockOSThread()
		other := make(chan struct{})
		go r.thread(func() {
			close(other)
			do()
		})
		<-other
		return
	}
	do()
}

// enter has the caller's thread see mounts as the job will. So what it opens for the
// job is seen by that at its path.
func (n *namespace) enter() (err error) {
	if n.place, err = os.Getwd(); err != nil {
		return err
	}
	if n.before, err = open("/proc/thread-self/ns/mnt", unix.O_RDONLY); err != nil {
		return err
	}
	err = unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		// What is mounted on the host later shows up, but not the other way round.
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: to give the job PIDs of its own (--new-pidns), be root or have CAP_SYS_ADMIN", err)
	}
	if err != nil {
		return fmt.Errorf("a mount namespace: %w", err)
	}
	return nil
}

// leave has the thread see what it saw before.
func (n *namespace) leave() error {
	err := unix.Setns(n.before, unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Chdir(n.place) // the thread's alone, by now
	}
	return err
}

// close is for when the job has all it needs, or there is none.
func (n *namespace) close(built bool) {
	unix.Close(n.before)
	if !built && n.status != nil {
		n.status.Close()
	}
}

// pipe makes the pipe for the status, when all other files are open.
func (n *namespace) pipe(r *restorer) error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	n.status = os.NewFile(uintptr(ends[0]), "status")
	n.statusFD = len(r.files)
	r.files = append(r.files, ends[1])
	return nil
}

// becomeInit makes the nursery ready to run as the namespace's first process.
func (r *restorer) becomeInit() error {
	w := r.nursery
	text := func(s string) uintptr { return w.put(append([]byte(s), 0)) }
	fs := text("proc")
	w.do("mounting /proc", unix.SYS_MOUNT, fs, text("/proc"), fs, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, 0)
	w.do("working directory", unix.SYS_CHDIR, text("/"))
	w.do("its pipe", unix.SYS_DUP3, r.fileFD(r.own.statusFD), 0, unix.O_CLOEXEC)
	w.do("closing the rest", unix.SYS_CLOSE_RANGE, 1, 1<<32-1, 0)
	w.do("unmapping shared memory", unix.SYS_MUNMAP, uintptr(r.gap), uintptr(r.gapEnd-r.gap))
	w.do("death signal", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0)
	w.do("name", unix.SYS_PRCTL, unix.PR_SET_NAME, text("freezer-init\x00\x00\x00\x00"))
	err := w.work()
	if e := r.own.leave(); err == nil { // what its thread sees in /proc are the job's PIDs now
		err = e
	}
	if err != nil {
		return err
	}
	if err := w.write(uintptr(r.shop)+shopCode, initCode); err != nil {
		return err
	}
	regs := w.regs
	toInit(&regs, uintptr(r.shop)+shopCode, uintptr(r.shop)+shopData, r.job.roots()[0].PID)
	return ptrace.SetRegisters(w.tid, &regs)
}

// roots are the processes whose parents are outside.
func (j *Job) roots() (all []*Process) {
	for i := range j.Processes {
		if p := &j.Processes[i]; p.Parent == 0 {
			all = append(all, p)
		}
	}
	return all
}

// waitInNamespace is Wait for a job with a namespace of its own.
func (j *Restored) waitInNamespace() (status int, by unix.Signal, err error) {
	if _, _, err := j.await(j.roots[0]); err != nil {
		return 0, 0, err
	}
	var told [4]byte
	if n, _ := j.status.Read(told[:]); n != len(told) {
		return 0, unix.SIGKILL, nil // all of it was killed, with the namespace's first process
	}
	ws := unix.WaitStatus(get64(told[:]))
	if ws.Signaled() {
		return 0, ws.Signal(), nil
	}
	return ws.ExitStatus(), 0, nil
}
