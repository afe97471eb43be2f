package freezer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Memory is what the processes of a group and of its descendants have, in
// bytes. It is the sum of what smaps_rollup says of each; proc(5) has the terms.
type Memory struct {
	Private int64 `json:"private"` // in memory, and no other process's
	Swapped int64 `json:"swapped"` // in swap
	Locked  int64 `json:"locked"`  // cannot be swapped out; part of Private
}

// Memory adds up the memory of the group. The error matches ErrPermission when
// it is not the caller's to look at.
func (g *Group) Memory() (m Memory, err error) {
	pids, err := g.everyone()
	if err != nil {
		return m, opError("measure", g.name, err)
	}
	for _, pid := range pids {
		text, err := kernfs.ReadFile(proc.Path(pid, "smaps_rollup"))
		if err == unix.ENOENT || err == unix.ESRCH {
			continue
		}
		if err != nil {
			return m, opError("measure", g.name, fmt.Errorf("process %d: %w", pid, err))
		}
		m.Private += kilobytes(text, "Private_Clean") + kilobytes(text, "Private_Dirty")
		m.Swapped += kilobytes(text, "Swap")
		m.Locked += kilobytes(text, "Locked")
	}
	return m, nil
}

func kilobytes(text []byte, field string) int64 {
	word, _, _ := bytes.Cut([]byte(proc.StatusField(text, field)), []byte(" "))
	n, _ := strconv.ParseInt(string(word), 10, 64)
	return n << 10
}

// everyone lists the processes of the group and of its descendants.
func (g *Group) everyone() (pids []int, err error) {
	all, err := g.Walk()
	for _, sub := range all {
		some, err := g.backend.Procs(sub.dir)
		if err != nil && err != unix.ENOENT {
			return nil, err
		}
		pids = append(pids, some...)
	}
	return pids, err
}

// Reclaim pushes the memory of a FROZEN group out to swap, about size bytes of
// it, or all that can go when size is 0, and returns what it had before and
// after. It comes back by itself when the group runs and needs it.
//
// The kernel's own controller does it where the group's memory is controlled;
// else each process is advised from outside, which needs root (CAP_SYS_NICE and
// the right to trace it). Locked and shared memory stays. Nothing is lost where
// there is no swap: then little goes. The error is ErrThawed when the group is
// not FROZEN, ErrPermission or ErrUnsupported when this cannot be done here.
func (g *Group) Reclaim(ctx context.Context, size int64) (before, after Memory, err error) {
	state, err := g.State()
	if err == nil && state != Frozen {
		err = opError("reclaim", g.name, fmt.Errorf("%w: only a frozen group gives its memory back", ErrThawed))
	}
	if err != nil {
		return before, after, err
	}
	if before, err = g.Memory(); err != nil {
		return before, after, err
	}
	want := before.Private
	if size > 0 {
		want = min(want, size)
	}
	if err := g.reclaim(ctx, before.Private, want); err != nil {
		return before, after, opError("reclaim", g.name, err)
	}
	after, err = g.Memory()
	return before, after, err
}

// reclaim has the controller do what it can (it knows nothing of memory that
// the processes brought along from elsewhere), and advises for the rest.
func (g *Group) reclaim(ctx context.Context, private, want int64) error {
	pids, err := g.everyone()
	if err != nil {
		return err
	}
	if file := g.controller(pids); file != "" {
		_ = reclaimByController(file, want) // what it does not do is advised
	}
	// The kernel passes over pages that it is just busy with: ask more than once.
	for range 3 {
		now, err := g.Memory()
		if err != nil {
			return err
		}
		left := want - (private - now.Private)
		if left <= want/50 {
			return nil
		}
		for _, pid := range pids {
			n, err := pageOut(ctx, pid, left)
			if left -= n; err != nil {
				return err
			}
			if left <= 0 {
				break
			}
		}
	}
	return nil
}

// controller finds the file that reclaims the memory of just this group: on
// cgroup2 its own, on a host with a cgroup1 memory tree that of the group in
// which all its processes are and no others. Empty when there is none.
func (g *Group) controller(pids []int) string {
	own := filepath.Join(g.dir, "memory.reclaim")
	if unix.Access(own, unix.W_OK) == nil {
		return own
	}
	mounts, _ := mountinfo.Self()
	for _, m := range mounts {
		if m.Type != "cgroup" || !m.HasController("memory") || len(pids) == 0 {
			continue
		}
		path := memoryGroup(pids[0])
		dir := filepath.Join(m.Point, path)
		inside, err := kernfs.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if path == "/" || err != nil || len(kernfs.ParseIDs(inside)) != len(pids) {
			return ""
		}
		for _, pid := range pids {
			if memoryGroup(pid) != path {
				return ""
			}
		}
		return filepath.Join(dir, "memory.force_empty")
	}
	return ""
}

func memoryGroup(pid int) string {
	cgroups, _ := proc.Cgroups(pid)
	for _, c := range cgroups {
		if c.Has("memory") {
			return c.Path
		}
	}
	return "/"
}

// reclaimByController writes how much is wanted. The kernel gives EAGAIN when
// it found less than that, which is as well.
func reclaimByController(file string, want int64) error {
	text := strconv.FormatInt(want, 10)
	if filepath.Base(file) == "memory.force_empty" {
		text = "0"
	}
	err := kernfs.WriteFile(file, text)
	if err == unix.EAGAIN || err == unix.EBUSY {
		return nil
	}
	return err
}

// A span is a part of a process's address space.
type span struct{ start, end uint64 }

// privateSpans lists the private mappings of a process.
func privateSpans(pid int) (spans []span) {
	text, err := kernfs.ReadFile(proc.Path(pid, "maps"))
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) < 5 || len(f[1]) != 4 || f[1][3] != 'p' || len(f) > 5 && bytes.HasPrefix(f[5], []byte("[v")) { // vdso, vvar, vsyscall
			continue
		}
		from, to, _ := bytes.Cut(f[0], []byte("-"))
		start, err1 := strconv.ParseUint(string(from), 16, 64)
		end, err2 := strconv.ParseUint(string(to), 16, 64)
		if err1 == nil && err2 == nil && end > start {
			spans = append(spans, span{start, end})
		}
	}
	return spans
}

var pageSize = uint64(os.Getpagesize())

const (
	chunk        = 64 << 20
	madvPageout  = 21
	maxVectors   = 1024 // UIO_MAXIOV
	pagemapEntry = 8
)

// pageOut advises the kernel to swap out up to want bytes of a process's
// private memory, and returns how much of it was advised.
func pageOut(ctx context.Context, pid int, want int64) (done int64, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	for _, s := range privateSpans(pid) {
		for at := s.start; at < s.end && done < want; {
			if err := ctx.Err(); err != nil {
				return done, err
			}
			n := min(s.end-at, chunk, (uint64(want-done)+pageSize-1)&^(pageSize-1))
			resident := residentBytes(pid, span{at, at + n})
			if resident > 0 {
				switch err := processMadvise(fd, span{at, at + n}, madvPageout); err {
				case nil:
					done += resident
				case unix.EINVAL, unix.ENOMEM: // locked, or of a kind that has no pages to swap
				case unix.ESRCH:
					return done, nil
				case unix.EPERM:
					return done, fmt.Errorf("%w: giving back the memory of process %d needs root", ErrPermission, pid)
				case unix.ENOSYS:
					return done, fmt.Errorf("%w: giving memory back needs Linux 5.10", ErrUnsupported)
				default:
					return done, err
				}
			}
			at += n
		}
	}
	return done, nil
}

func processMadvise(pidfd int, s span, advice int) error {
	remote := unix.RemoteIovec{Base: uintptr(s.start), Len: int(s.end - s.start)}
	_, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(pidfd), uintptr(unsafe.Pointer(&remote)), 1, uintptr(advice), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// residentBytes counts the pages of a span that are in memory; all of it when
// that is not shown.
func residentBytes(pid int, s span) (n int64) {
	pages, err := pagemap(pid, s)
	if err != nil {
		return int64(s.end - s.start)
	}
	for _, p := range pages {
		if p&pagePresent != 0 {
			n += int64(pageSize)
		}
	}
	return n
}

// Bits of an entry of /proc/PID/pagemap; see the kernel's
// Documentation/admin-guide/mm/pagemap.rst.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
)

func pagemap(pid int, s span) ([]uint64, error) {
	f, err := os.Open(proc.Path(pid, "pagemap"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, (s.end-s.start)/pageSize*pagemapEntry)
	n, err := f.ReadAt(buf, int64(s.start/pageSize*pagemapEntry))
	if n == 0 && err != nil {
		return nil, err
	}
	entries := make([]uint64, n/pagemapEntry)
	for i := range entries {
		entries[i] = binary.NativeEndian.Uint64(buf[i*pagemapEntry:])
	}
	return entries, nil
}

// Prefetch brings back into memory what the group has in swap, so that it does
// not do so page by page when it runs, and returns how many bytes came. It can
// be called while the group is frozen, and needs the right to trace its
// processes.
func (g *Group) Prefetch(ctx context.Context) (bytes int64, err error) {
	pids, err := g.everyone()
	if err != nil {
		return 0, opError("prefetch", g.name, err)
	}
	for _, pid := range pids {
		for _, s := range privateSpans(pid) {
			for at := s.start; at < s.end; at += chunk {
				if err := ctx.Err(); err != nil {
					return bytes, opError("prefetch", g.name, err)
				}
				n, err := pageIn(pid, span{at, min(at+chunk, s.end)})
				if bytes += n; err != nil {
					return bytes, opError("prefetch", g.name, err)
				}
			}
		}
	}
	return bytes, nil
}

// pageIn reads one byte of each page of a span that is in swap, which has the
// kernel put it where the process will find it.
func pageIn(pid int, s span) (done int64, err error) {
	pages, err := pagemap(pid, s)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			return 0, nil
		}
		return 0, err
	}
	var remote []unix.RemoteIovec
	read := func() error {
		if len(remote) == 0 {
			return nil
		}
		buf := make([]byte, len(remote))
		local := unix.Iovec{Base: &buf[0]}
		local.SetLen(len(buf))
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, remote, 0)
		done += int64(max(n, 0)) * int64(pageSize)
		remote = remote[:0]
		if err == unix.EFAULT || err == unix.ESRCH { // not to be read, or gone
			return nil
		}
		return err
	}
	for i, p := range pages {
		if p&pageSwapped == 0 {
			continue
		}
		remote = append(remote, unix.RemoteIovec{Base: uintptr(s.start + uint64(i)*pageSize), Len: 1})
		if len(remote) == maxVectors {
			if err := read(); err != nil {
				return done, err
			}
		}
	}
	return done, read()
}
