package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
	"github.com/cgfreezer/freezer/internal/rundir"
)

// An image with a base has only the memory that was written since the base was taken.
// The kernel notes which that is (userfaultfd with UFFD_FEATURE_WP_ASYNC, and
// PAGEMAP_SCAN) as long as somebody has a process's userfaultfd open. That is the
// tracker: a process that does nothing but hold those of one group's processes, and
// ends with them. Its arguments say since which image:
//
//	freezer-tracker IMAGE PID:START ...     (the first userfaultfd is descriptor 3)
//
// It is found by a file of its group in the runtime directory. Whoever goes on with
// it takes the descriptors and kills it first, so that a crash at whatever moment
// leaves no tracker that has forgotten something: then the next image is whole again.
const (
	trackerName = "freezer-tracker"
	trackersDir = "trackers"
)

// tracking is what is known of the memory of a group's processes.
type tracking struct {
	since string           // the ID of the image at whose moment it began
	pages map[int]*tracked // by PID
}

// A tracked process is one whose userfaultfd is open here.
type tracked struct {
	start   uint64 // of the process
	fd      int
	written map[uint64][]run // since then, by the start of the mapping; none for those that are not tracked
}

func init() {
	if len(os.Args) > 1 && os.Args[0] == trackerName {
		track(os.Args[2:])
		os.Exit(0)
	}
}

// track is what the tracker does: it waits until its processes have ended.
func track(processes []string) {
	for _, p := range processes {
		pid, start, ok := parseTracked(p)
		fd, err := unix.PidfdOpen(pid, 0)
		if st, e := proc.ReadStat(pid); !ok || err != nil || e != nil || st.Start != start {
			continue
		}
		for {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
				break
			}
		}
		unix.Close(fd)
	}
}

func parseTracked(text string) (pid int, start uint64, ok bool) {
	id, since, ok := strings.Cut(text, ":")
	pid, err1 := strconv.Atoi(id)
	start, err2 := strconv.ParseUint(since, 10, 64)
	return pid, start, ok && err1 == nil && err2 == nil
}

// trackerFile is where the tracker of a group is found.
func trackerFile(g *freezer.Group) (string, error) {
	dir, err := rundir.Make(trackersDir)
	return filepath.Join(dir, hash([]byte(g.Dir()))), err
}

// trackerOf finds the tracker of a group, 0 for none, and its arguments.
func trackerOf(g *freezer.Group) (pid int, args []string) {
	file, err := trackerFile(g)
	if err != nil {
		return 0, nil
	}
	text, err := os.ReadFile(file)
	pid, start, ok := parseTracked(string(text))
	if st, e := proc.ReadStat(pid); err != nil || !ok || e != nil || st.Start != start {
		return 0, nil
	}
	line, err := kernfs.ReadFile(proc.Path(pid, "cmdline"))
	args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	if err != nil || len(args) < 2 || args[0] != trackerName {
		return 0, nil
	}
	return pid, args[1:]
}

// trackedOf lists the processes that the tracker of a group tracks.
func trackedOf(g *freezer.Group) map[int]bool {
	_, args := trackerOf(g)
	all := map[int]bool{}
	for i, p := range args {
		if pid, _, ok := parseTracked(p); ok && i > 0 {
			all[pid] = true
		}
	}
	return all
}

// Tracked says since which image it is noted what a group's processes write to
// their memory, by its ID; empty when it is not.
func Tracked(g *freezer.Group) (image string) {
	if pid, args := trackerOf(g); pid != 0 {
		return args[0]
	}
	return ""
}

// Untrack ends that, if it is done. Nothing is left of it in the processes.
func Untrack(g *freezer.Group) error {
	pid, _ := trackerOf(g)
	if pid == 0 {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return err
	}
	file, err := trackerFile(g)
	if err == nil {
		err = os.Remove(file)
	}
	if os.IsNotExist(err) {
		err = nil
	}
	return err
}

// takeTracking takes over from the tracker of a group, which is killed. What it knew
// is only of use if since is the base of the next image.
func takeTracking(g *freezer.Group) (*tracking, error) {
	t := &tracking{pages: map[int]*tracked{}}
	pid, args := trackerOf(g)
	if pid == 0 {
		return t, nil
	}
	tracker, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return t, nil
	}
	defer unix.Close(tracker)
	for i, p := range args[1:] {
		pid, start, ok := parseTracked(p)
		fd, err := unix.PidfdGetfd(tracker, 3+i, 0)
		if err != nil || !ok {
			continue
		}
		if st, err := proc.ReadStat(pid); err != nil || st.Start != start {
			unix.Close(fd)
			continue
		}
		t.pages[pid] = &tracked{start: start, fd: fd}
	}
	t.since = args[0]
	return t, Untrack(g)
}

// known says whether a process is tracked since the base of the next image.
func (t *tracking) known(pid int, base string) *tracked {
	if t == nil || base == "" || t.since != base {
		return nil
	}
	return t.pages[pid]
}

func (t *tracking) close() {
	if t == nil {
		return
	}
	for _, p := range t.pages {
		unix.Close(p.fd)
	}
	t.pages = nil
}

// keep starts a tracker for what was noted since an image.
func (t *tracking) keep(g *freezer.Group, image string) error {
	file, err := trackerFile(g)
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	args, files := []string{trackerName, image}, []*os.File{null, null, null}
	for pid, p := range t.pages {
		args = append(args, fmt.Sprintf("%d:%d", pid, p.start))
		files = append(files, os.NewFile(uintptr(p.fd), "userfaultfd"))
	}
	t.pages = nil
	defer func() {
		for _, f := range files[3:] {
			f.Close()
		}
	}()
	p, err := os.StartProcess("/proc/self/exe", args, &os.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: &unix.SysProcAttr{Setsid: true}})
	if err != nil {
		return fmt.Errorf("the tracker cannot be started: %w", err)
	}
	st, err := proc.ReadStat(p.Pid)
	if err == nil {
		err = os.WriteFile(file, []byte(fmt.Sprintf("%d:%d", p.Pid, st.Start)), 0o600)
	}
	// For a moment it has no arguments yet, by which it is known.
	for begun := time.Now(); err == nil && time.Since(begun) < time.Second; time.Sleep(100 * time.Microsecond) {
		if pid, _ := trackerOf(g); pid == p.Pid {
			break
		}
	}
	go func() { _, _ = p.Wait() }()
	return err
}

// Features of a userfaultfd, and how it is opened.
const (
	uffdAsync       = 1 << 15 // UFFD_FEATURE_WP_ASYNC
	uffdUnpopulated = 1 << 13
	uffdProtect     = 2 // UFFDIO_REGISTER_MODE_WP
	uffdUserOnly    = 1 // UFFD_USER_MODE_ONLY: all that an ordinary user may have, and enough for this
)

// begin begins to track a process, through a tracee that shares its memory, which
// opens the userfaultfd and goes on as if nothing had been.
func (t *tracking) begin(r *room, between int, p *Process) error {
	own, err := ptrace.Registers(between)
	if err != nil {
		return err
	}
	st, err := proc.ReadStat(p.PID)
	if err != nil {
		return err
	}
	g := &guest{room: r, tid: between, own: *own}
	it, err := g.note(st.Start)
	if err != nil {
		return err
	}
	t.pages[p.PID] = it
	if err := it.look(p); err != nil {
		return err
	}
	it.written = nil // since now
	return nil
}

// note has the guest open a userfaultfd, and takes it.
func (g *guest) note(start uint64) (*tracked, error) {
	theirs, err := g.call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserOnly)
	if err != nil {
		return nil, fmt.Errorf("%w: the kernel gives no userfaultfd to note what is written: %w", freezer.ErrUnsupported, err)
	}
	pidfd, err := unix.PidfdOpen(g.tid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	t := &tracked{start: start}
	if t.fd, err = unix.PidfdGetfd(pidfd, theirs, 0); err != nil {
		return nil, err
	}
	api := [3]uint64{uffdVersion, uffdAsync | uffdUnpopulated}
	if err := t.ioctl(uffdAPI, unsafe.Pointer(&api)); err != nil {
		unix.Close(t.fd)
		return nil, fmt.Errorf("%w: this kernel does not note what is written (userfaultfd's WP_ASYNC, Linux 6.7): %w", freezer.ErrUnsupported, err)
	}
	return t, ptrace.SetRegisters(g.tid, &g.own)
}

// writtenIn is what was written in a mapping, if that is known.
func (t *tracked) writtenIn(m *Mapping) (runs []run, ok bool) {
	if t == nil {
		return nil, false
	}
	runs, ok = t.written[m.Start]
	return runs, ok
}

func (t *tracked) ioctl(request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.fd), request, uintptr(arg))
	return number(errno)
}

// look finds what a stopped process has written since the last look, and begins
// anew. It begins with mappings that were not tracked, too. The error is ESRCH when
// the process has started another program.
func (t *tracked) look(p *Process) error {
	t.written = map[uint64][]run{}
	pagemap, err := unix.Open(proc.Path(p.PID, "pagemap"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pagemap)
	for _, m := range p.Mappings {
		if m.Kind != kindPrivate && m.Kind != kindFile || m.uncopied() {
			continue
		}
		runs, err := scan(pagemap, m.Start, m.End, scanning{flags: scanProtect | scanAsync, all: isWritten})
		switch {
		case err == nil:
			t.written[m.Start] = runs
			if runs == nil {
				t.written[m.Start] = []run{}
			}
		case errors.Is(err, unix.EPERM): // it is new
			register := [4]uint64{m.Start, m.End - m.Start, uffdProtect}
			if err := t.ioctl(uffdRegister, unsafe.Pointer(&register)); err == unix.ESRCH {
				return err
			} else if err != nil {
				continue // it cannot be tracked, and is taken in full each time
			}
			if _, err := scan(pagemap, m.Start, m.End, scanning{flags: scanProtect | scanAsync, all: isWritten}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("process %d: what it has written cannot be found out: %w", p.PID, err)
		}
	}
	return nil
}
