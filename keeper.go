package freezer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/rundir"
)

// The keeper ends leases: somebody has to be there when their time comes, long
// after the program that took them. There is one for each user of a host, with
// a second process that waits to take its place should it be killed; both end
// when there is nothing to keep.
//
// They meet in the runtime directory:
//
//	keeper/lock      locked by the keeper
//	keeper/standby   locked by the one who waits for the lock
//	keeper/pid       the keeper's, and when it began: it stays when the keeper is killed
//	leases/NAME      a group with leases: NAME is its directory, escaped
const (
	keeperDir = "keeper"
	leasesDir = "leases"
)

// A directory as the name of a file: at most three times as long, and so within
// what a name may have unless groups nest very deep.
var (
	escape   = strings.NewReplacer("%", "%25", "/", "%2F")
	unescape = strings.NewReplacer("%2F", "/", "%25", "%")
)

// entryAge is how long an entry stays although its group has no lease: the one
// who made it may not have got to the lease yet.
const entryAge = 10 * time.Second

// keeperCommand is the name of the client program and the words that make it
// the keeper.
var keeperCommand = []string{"freezer", "keeper"}

// registerLease tells the keeper of a group that has leases, or is about to
// get one, and makes sure that there is a keeper.
func (g *Group) registerLease() error {
	dir, err := rundir.Make(leasesDir)
	if err != nil {
		return fmt.Errorf("%w: the lease could not be ended: %w", ErrUnsupported, err)
	}
	if err := os.WriteFile(filepath.Join(dir, escape.Replace(g.dir)), nil, 0o600); err != nil {
		return fmt.Errorf("%w: the lease could not be ended: %w", ErrUnsupported, err)
	}
	return startKeeper()
}

// startKeeper starts a keeper unless there is one.
func startKeeper() error {
	free, err := keeperLock("lock", unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: leases cannot be ended: %w", ErrUnsupported, err)
	}
	free.Close()
	return spawnKeeper()
}

func spawnKeeper() error {
	program, err := keeperProgram()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, keeperCommand[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: the keeper, which ends leases, cannot be started: %w", ErrUnsupported, err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// keeperProgram finds the client program: this one, one beside it, or one on
// the PATH.
func keeperProgram() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), keeperCommand[0])
		if _, err := exec.LookPath(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(keeperCommand[0])
	if err != nil {
		return "", fmt.Errorf("%w: leases are ended by the program %s, which is neither beside this one nor on the PATH", ErrUnsupported, keeperCommand[0])
	}
	return path, nil
}

// keeperLock opens and locks one of the keeper's files. The lock goes with the
// file that it returns.
func keeperLock(name string, how int) (*os.File, error) {
	dir, err := rundir.Make(keeperDir)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// keeperID returns the keeper of this user, as it was when it began; all zero
// when there is none.
func keeperID() (id processID) {
	text, err := kernfs.ReadFile(keeperIDFile())
	if err != nil {
		return processID{}
	}
	pid, start, _ := strings.Cut(string(text), " ")
	id.pid, _ = strconv.Atoi(pid)
	id.start, _ = strconv.ParseUint(start, 10, 64)
	return id
}

func keeperIDFile() string { return filepath.Join(rundir.Path(), keeperDir, "pid") }

// RunKeeper is the keeper: it returns when there are no leases to end, or when
// another keeper and its stand-in are there already. The program `freezer` calls
// it; programs that use this package need not.
func RunKeeper(ctx context.Context) error {
	lock, err := keeperLock("lock", unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		lock, err = standBy()
	}
	if err != nil || lock == nil || removed(lock) {
		return err
	}
	k := &keeper{groups: map[string]*Group{}}
	return k.run(ctx, lock)
}

// standBy waits until the keeper is gone, and returns its lock. It returns nil
// when another stands by already.
func standBy() (*os.File, error) {
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		standby, err := keeperLock("standby", unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			defer standby.Close()
			return keeperLock("lock", unix.LOCK_EX)
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		if time.Since(start) > time.Second { // the keeper itself has it for a moment: see keepStandby
			return nil, nil
		}
	}
}

// removed says whether somebody took the runtime directory away, and with it
// all that a keeper could know.
func removed(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink == 0
}

type keeper struct {
	f      *Freezer
	groups map[string]*Group // by the name of the entry
}

func (k *keeper) run(ctx context.Context, lock *os.File) error {
	defer lock.Close()
	f, err := Open()
	if err != nil {
		return err
	}
	k.f = f
	dir, err := rundir.Make(leasesDir)
	if err != nil {
		return err
	}
	news, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(news)
	if _, err := unix.InotifyAddWatch(news, dir, unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF); err != nil {
		return err
	}
	self, err := proc.ReadStat(os.Getpid())
	if err != nil {
		return err
	}
	if err := os.WriteFile(keeperIDFile(), fmt.Appendf(nil, "%d %d", os.Getpid(), self.Start), 0o600); err != nil {
		return err
	}
	k.leaveGroups()
	standby := sync.OnceFunc(func() { go keepStandby() })
	for ctx.Err() == nil {
		next, pids, busy := k.pass(dir)
		if !busy {
			_ = os.Remove(keeperIDFile())
			lock.Close() // the stand-in gets it, looks, and ends as well
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				return startKeeper()
			}
			return nil
		}
		standby()
		awaitLease(news, next, pids)
	}
	return ctx.Err()
}

// leaveGroups moves root's keeper out of whatever group it was started in, which
// may be about to freeze. Others' keepers stay: the guard knows them.
func (k *keeper) leaveGroups() {
	for _, b := range k.f.backends() {
		_ = b.MoveProcess(b.mount, os.Getpid())
	}
}

// keepStandby starts a stand-in whenever there is none, at growing intervals
// when it does not last.
func keepStandby() {
	for nap := 20 * time.Millisecond; ; nap = min(2*nap, 5*time.Second) {
		start := time.Now()
		free, err := keeperLock("standby", unix.LOCK_EX) // comes when the stand-in goes
		if err != nil {
			return
		}
		free.Close()
		if time.Since(start) > time.Minute {
			nap = 20 * time.Millisecond
		}
		if spawnKeeper() != nil {
			return
		}
		time.Sleep(nap) // it takes the lock meanwhile
	}
}

// pass ends what leases are over. It returns when to look again, the processes
// with which leases end, and whether there is anything to keep.
func (k *keeper) pass(dir string) (next time.Duration, pids []int, busy bool) {
	entries, err := os.ReadDir(dir)
	next = time.Hour
	if err != nil {
		return next, nil, false
	}
	for _, e := range entries {
		due, while, leases := k.endLeases(e.Name())
		if leases {
			next, pids, busy = min(next, due), append(pids, while...), true
			continue
		}
		path := filepath.Join(dir, e.Name())
		if st, err := os.Stat(path); err == nil && time.Since(st.ModTime()).Abs() < entryAge {
			next, busy = min(next, entryAge), true
			continue
		}
		_ = os.Remove(path)
		delete(k.groups, e.Name())
	}
	return next, pids, busy
}

// endLeases ends the leases of one entry's group that are over.
func (k *keeper) endLeases(name string) (due time.Duration, pids []int, leases bool) {
	g := k.groups[name]
	if g == nil {
		path := unescape.Replace(name)
		if !filepath.IsAbs(path) {
			return 0, nil, false
		}
		f, err := Open(WithRoot(path)) // whichever backend that is on
		if err == nil {
			g, err = f.Group("/")
		}
		if err != nil {
			return 0, nil, false
		}
		k.groups[name] = g
	}
	var holds []Hold
	err := g.fresh(func() (err error) {
		holds, err = g.holds()
		return err
	})
	if err != nil {
		return 0, nil, false
	}
	if slices.ContainsFunc(holds, func(h Hold) bool { return h.record.over() }) {
		_ = g.fresh(func() error { return g.release(thawOptions{ended: true}) })
		leases = !g.settled() // it must not end before that
		holds, _ = g.holds()
	}
	due = time.Hour
	for _, h := range holds {
		if h.record.over() { // it could not be ended: not ours
			due = min(due, time.Second)
			continue
		}
		if h.record.Until != 0 {
			due = min(due, max(time.Duration(h.record.Until-bootNow()), 0))
		}
		if h.While != 0 {
			pids = append(pids, h.While)
		}
		leases = leases || h.Lease()
	}
	return due, pids, leases
}

// awaitLease sleeps until a lease may be over: its time has come, its process
// has ended, or there is a new one.
func awaitLease(news int, next time.Duration, pids []int) {
	fds := []unix.PollFd{{Fd: int32(news), Events: unix.POLLIN}}
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			next = min(next, 10*time.Millisecond) // it is gone, or there is no descriptor left
			continue
		}
		defer unix.Close(fd)
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	timeout := unix.NsecToTimespec(int64(next))
	_, _ = unix.Ppoll(fds, &timeout, nil)
	var buf [4096]byte
	for {
		if n, err := unix.Read(news, buf[:]); err != nil || n <= 0 {
			return
		}
	}
}
