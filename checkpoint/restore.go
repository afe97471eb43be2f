package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// RestoreOptions say how a job is to be restored.
type RestoreOptions struct {
	Group    string           // empty: the one that it was taken from
	Frozen   bool             // it is to be frozen when it is whole
	Streams  [3]*os.File      // in place of standard streams that went outside
	Files    FilePolicy       // what may have become of the files that were open
	NewPIDs  bool             // the job gets a PID namespace of its own, and there the PIDs that it had
	Tell     func(read int64) // called now and then, with the bytes that were read of the image; nil: nothing is
	TCPClose bool             // TCP connections that went outside are to have ended

	bases map[string]*os.File // by their IDs, of images that were received
}

// A Restored job is the children of this process, and what is below them.
type Restored struct {
	PID    int      // of its first process
	Cuts   []Cut    // files that were cut back, with FilesRollback
	first  *os.File // a pidfd of that process
	roots  []int
	ended  sync.Map // how a root has ended that the minder reaped, by PID
	status *os.File // see namespace
}

// Restore builds the job of an image, lets it run, and returns. Its processes
// have the PIDs that they had; those whose parents were outside of the job become
// children of the caller, who has to wait for them (see Wait).
//
// Where the image is a stream and the job is still there, as on the host where it is
// being checkpointed, the stream is read to its end first, into a file without a
// name: who writes it may kill the job then.
//
// Nothing is built of an image that is damaged, or whose files were replaced, and
// nothing runs before the whole image was read. When Restore fails, or this
// program is killed before Restore lets the job go, nothing is left of it.
//
// Tasks that were in a system call with a timeout stay traced until it returns, so
// that it ends after what was left of it: when this program ends before, it begins
// anew in full.
//
// The caller needs the right to choose PIDs: root's, or CAP_CHECKPOINT_RESTORE.
func Restore(ctx context.Context, image io.Reader, f *freezer.Freezer, o RestoreOptions) (*Restored, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	in := newReader(image)
	in.tell = o.Tell
	job, err := in.begin()
	if err != nil {
		return nil, err
	}
	r := &restorer{job: job, options: o, byPID: map[int]*worker{}, sending: map[int]bool{}, minder: invisible.NewMinder()}
	if err := r.fits(); err != nil {
		return nil, err
	}
	if !o.NewPIDs && in.file == nil {
		there, err := job.stillThere()
		if err != nil {
			return nil, err
		}
		if there {
			f, err := in.spool()
			if err != nil {
				return nil, err
			}
			defer f.Close()
		}
	}
	if o.NewPIDs {
		r.own = &namespace{}
	}
	built := make(chan error)
	go r.thread(func() {
		err := r.build(ctx, in, f)
		r.closeFiles()
		if err != nil {
			r.kill()
		}
		r.dropContents(err == nil)
		if r.own != nil {
			r.own.close(err == nil)
		}
		built <- err
		r.minder.Mind(nil, func(tid int, s ptrace.Status) { r.done.ended.Store(tid, s) })
	})
	if err := <-built; err != nil {
		return nil, err
	}
	return &r.done, nil
}

// A restorer builds one job.
type restorer struct {
	job     *Job
	options RestoreOptions
	group   *freezer.Group

	contents    []standIn // in the order of Job.Shared
	files       []int     // to hand to the first process, which has them from base on
	base        int
	mappedAt    int // where Mapped begin among them, after Files
	placesAt    int // where working directories begin
	terminalsAt int // where terminals of sessions begin
	shop        uint64
	gap         uint64   // after the workshop, for what is moved
	sharedAt    []uint64 // in it
	gapEnd      uint64
	kernel      []Mapping // of the first process
	nursery     *worker
	byPID       map[int]*worker
	built       []*worker // in the order of Job.Processes, nil for those that ended
	threads     map[int]*worker
	sending     map[int]bool // the places in Job.Files of those that send signals
	made        bool         // the group was
	minder      *invisible.Minder
	own         *namespace
	done        Restored
	hiddenAt    int            // where what openHidden opened is; -1: nothing
	masters     []int          // of Terminals
	connections map[uint64]int // by the IDs of their sockets
	bound       []string       // files of unix sockets that were made
}

// fits says why the job cannot run on this host.
func (r *restorer) fits() error {
	code, _, err := ownVDSO()
	if err != nil {
		return err
	}
	if hash(code) != r.job.VDSO {
		return fmt.Errorf("%w: the image was taken under another kernel (%s), whose code in each process (vdso) is another one", freezer.ErrUnsupported, r.job.Kernel)
	}
	var missing []string
	for i, s := range streams {
		if r.options.Streams[i] == nil && slices.ContainsFunc(r.job.Files, func(f File) bool { return f.Kind == fileOutside && f.Stream == i }) {
			missing = append(missing, s)
		}
	}
	if i := slices.IndexFunc(r.job.Files, func(f File) bool { return f.Socket != nil && f.Socket.Outside }); i >= 0 && !r.options.TCPClose {
		return fmt.Errorf("TCP connections of the job went outside, as one to %s: to have them ended, say --tcp-close", showAddress(r.job.Files[i].Socket.Remote))
	}
	if len(missing) > 0 {
		return fmt.Errorf("standard streams of the job went outside: say what to have in their place, with %s", strings.Join(missing, " and "))
	}
	var changed []error
	for _, m := range r.job.Mapped {
		changed = append(changed, m.same())
	}
	return errors.Join(changed...)
}

// build does all of it.
func (r *restorer) build(ctx context.Context, in *reader, f *freezer.Freezer) error {
	name := r.options.Group
	if name == "" {
		name = r.job.Group
	}
	if r.own != nil {
		if err := r.own.enter(); err != nil {
			return err
		}
	}
	if err := r.openFiles(); err != nil {
		return err
	}
	if r.own != nil {
		if err := r.own.pipe(r); err != nil {
			return err
		}
	}
	if err := r.findGap(); err != nil {
		return err
	}
	if old, err := f.Group(name); err != nil {
		return err
	} else if r.made = !old.Exists(); !r.made {
		r.group = old
	} else if r.group, err = f.CreateAll(name); err != nil {
		return err
	}
	populate := func() error { return r.populate(in, f) }
	if states, err := r.group.States(); err != nil {
		return err
	} else if !r.made && states.Effective != freezer.Thawed {
		// Of a frozen group nothing can be built; what was built is frozen at last.
		err = r.group.Lifted(populate)
		if err != nil {
			return err
		}
	} else if err := populate(); err != nil {
		return err
	}
	return r.letGo(ctx)
}

// populate builds the job in its group.
func (r *restorer) populate(in *reader, f *freezer.Freezer) error {
	if err := r.startNursery(); err != nil {
		return err
	}
	if err := r.group.Add(r.nursery.pid); err != nil {
		return err
	}
	if err := r.makeShared(); err != nil {
		return err
	}
	if err := r.openControlling(); err != nil {
		return err
	}
	if err := r.makeSockets(); err != nil {
		return err
	}
	if err := r.makeTree(f); err != nil {
		return err
	}
	if err := r.bringForward(); err != nil {
		return err
	}
	if err := r.fillSockets(); err != nil {
		return err
	}
	for i := range r.job.Processes {
		if err := r.shape(i); err != nil {
			return err
		}
	}
	if err := r.fill(in); err != nil {
		return err
	}
	for i := range r.job.Processes {
		if err := r.complete(i); err != nil {
			return err
		}
	}
	for _, last := range []func() error{r.watchPaths, r.tellOwners, r.finishContents} {
		if err := last(); err != nil {
			return err
		}
	}
	if r.own != nil {
		if err := r.becomeInit(); err != nil {
			return err
		}
	}
	return r.stands()
}

// stands makes the Restored of a job that is whole.
func (r *restorer) stands() error {
	for _, p := range r.job.roots() {
		r.done.roots = append(r.done.roots, r.byPID[p.PID].pid)
	}
	r.done.PID = r.done.roots[0]
	if r.own != nil {
		r.done.roots, r.done.status = []int{r.nursery.pid}, r.own.status
	}
	fd, err := unix.PidfdOpen(r.done.PID, 0)
	r.done.first = os.NewFile(uintptr(fd), "pidfd")
	return err
}

// letGo lets the job run.
func (r *restorer) letGo(ctx context.Context) error {
	var all []*worker
	if r.own != nil {
		all = append(all, r.nursery)
	} else {
		r.end(r.nursery)
	}
	if r.options.Frozen {
		if err := r.group.Freeze(ctx, freezer.Why("restored")); err != nil {
			return err
		}
	}
	for i, w := range r.built {
		if w == nil {
			continue
		}
		all = append(all, w)
		for _, t := range r.job.Processes[i].Threads[1:] {
			all = append(all, r.threads[t.TID])
		}
	}
	if err := r.rollBack(); err != nil {
		return err
	}
	for _, w := range all { // from here on it outlives this program
		if err := ptrace.SetOptions(w.tid, 0); err != nil {
			return err
		}
	}
	var errs []error
	for _, w := range all {
		if w.left != nil {
			errs = append(errs, r.minder.Expect(w.tid, *w.left))
		}
		errs = append(errs, r.minder.Release(w.tid, 0))
	}
	return errors.Join(errs...)
}

// end kills a process that was built, and reaps it.
func (r *restorer) end(w *worker) {
	if w == nil || w.pid == 0 {
		return
	}
	_ = unix.Kill(w.pid, unix.SIGKILL)
	for {
		if status, err := soon(w.pid); err != nil || status.Ended() {
			break
		}
	}
	_, _ = unix.Wait4(w.pid, nil, unix.WNOHANG, nil)
	w.pid = 0
}

// kill ends what was built, children before parents.
func (r *restorer) kill() {
	for _, w := range r.threads {
		_ = unix.Kill(w.pid, unix.SIGKILL)
	}
	var pids []int
	for _, w := range r.byPID {
		pids = append(pids, w.pid)
	}
	for i := len(r.job.Processes) - 1; i >= 0; i-- {
		r.end(r.byPID[r.job.Processes[i].PID])
	}
	r.end(r.nursery)
	for _, t := range r.threads { // their ends are told to their tracer, too
		_, _ = soon(t.tid)
	}
	for _, pid := range pids { // those below, when orphans come to the caller (PR_SET_CHILD_SUBREAPER)
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
	for _, path := range r.bound {
		_ = unix.Unlink(path)
	}
	if r.made && r.group != nil {
		_ = r.group.Remove()
	}
}

// Signal sends a signal to the job's first process.
func (j *Restored) Signal(sig unix.Signal) error {
	return unix.PidfdSendSignal(int(j.first.Fd()), sig, nil, 0)
}

// Wait waits until all processes that are children of the caller have ended, and
// returns how the first one did: with a status, or by a signal.
func (j *Restored) Wait() (status int, by unix.Signal, err error) {
	if j.status != nil {
		return j.waitInNamespace()
	}
	for _, pid := range j.roots {
		s, sig, err := j.await(pid)
		if err != nil {
			return 0, 0, err
		}
		if pid == j.PID {
			status, by = s, sig
		}
	}
	return status, by, nil
}

// await waits until a child has ended. A wait that blocks would take the stops of
// tasks that are minded.
func (j *Restored) await(pid int) (status int, by unix.Signal, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		for {
			if _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
				break
			}
		}
		unix.Close(fd)
	}
	for tries := 0; err == nil || err == unix.ESRCH; time.Sleep(100 * time.Microsecond) {
		if s, ok := j.ended.Load(pid); ok {
			status, by = s.(ptrace.Status).ExitStatus()
			return status, by, nil
		}
		var ws unix.WaitStatus
		got, werr := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		switch {
		case got == pid && ws.Signaled():
			return 0, ws.Signal(), nil
		case got == pid:
			return ws.ExitStatus(), 0, nil
		case werr == unix.ECHILD: // the minder is about to say how it ended
			if tries++; tries > 1000 {
				err = werr
			}
		}
	}
	return 0, 0, err
}
