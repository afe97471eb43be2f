package tracer

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A program with set-user-ID, set-group-ID or capabilities runs without them
// when a tracee starts it, unless the tracer is privileged: see execve(2). That
// meets a task that was about to exec when it was seized, in the microseconds in
// which it can no more be stopped before. So it is made to start the same program
// once more when it is let go, which nobody can see: the program has not
// executed its first instruction yet.

// restartExec prepares a task that stopped in exec to exec once more, if it has
// got less rights than it should. Whatever cannot be found out leaves it alone.
func restartExec(tid int) {
	if os.Geteuid() == 0 || !lostPrivileges(tid) {
		return
	}
	regs, err := ptrace.Registers(tid)
	if err != nil {
		return
	}
	image, ok := readImage(tid, regs.SP())
	if !ok || !image.isProgramOf(tid) {
		return
	}
	code := execCode(regs.PC())
	at, ok := room(tid, len(code))
	if !ok || ptrace.Poke(tid, at, code) != nil {
		return
	}
	regs.SetPC(at)
	regs.SetArg(0, image.name)
	regs.SetArg(1, image.argv)
	regs.SetArg(2, image.envp)
	_ = ptrace.SetRegisters(tid, regs)
}

// lostPrivileges says whether the program that a task has just started should
// have other rights than the task has.
func lostPrivileges(tid int) bool {
	exe := proc.Path(tid, "exe")
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Stat(exe, &st) != nil || unix.Statfs(exe, &fs) != nil || fs.Flags&unix.ST_NOSUID != 0 || proc.Status(tid, "NoNewPrivs") == "1" {
		return false
	}
	if st.Mode&unix.S_ISUID != 0 && effective(tid, "Uid") != st.Uid {
		return true
	}
	const groupExec = 0o010 // without it the other bit means something else
	if st.Mode&unix.S_ISGID != 0 && st.Mode&groupExec != 0 && effective(tid, "Gid") != st.Gid {
		return true
	}
	n, err := unix.Getxattr(exe, "security.capability", nil)
	return err == nil && n > 0 && strings.Trim(proc.Status(tid, "CapPrm"), "0") == ""
}

// effective reads the second of the numbers in a line of /proc/TID/status.
func effective(tid int, field string) uint32 {
	f := strings.Fields(proc.Status(tid, field))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseUint(f[1], 10, 32)
	return uint32(n)
}

// An image is what the kernel has put on the stack of a new program: addresses
// of its name and of the arrays of its arguments and its environment.
type image struct{ name, argv, envp uintptr }

// readImage reads the stack as the System V ABI has it: the number of arguments,
// them, a zero, the environment, a zero, and pairs of numbers.
func readImage(tid int, sp uintptr) (m image, ok bool) {
	w := words{tid: tid, at: sp}
	argc := w.next()
	m.argv = w.at
	for range argc + 1 {
		w.next()
	}
	m.envp = w.at
	for w.next() != 0 {
	}
	for !w.failed {
		const end, execName = 0, 31 // AT_NULL, AT_EXECFN
		switch kind, value := w.next(), w.next(); kind {
		case execName:
			m.name = value
		case end:
			return m, m.name != 0 && !w.failed
		}
	}
	return m, false
}

// words reads memory word by word, and zeros after an error.
type words struct {
	tid    int
	at     uintptr
	read   []byte
	total  int
	failed bool
}

func (w *words) next() uintptr {
	const chunk, most = 512, 8 << 20 // argument lists are no longer (ARG_MAX)
	if len(w.read) == 0 && !w.failed {
		w.read = make([]byte, chunk)
		w.total += chunk
		w.failed = w.total > most || ptrace.Peek(w.tid, w.at, w.read) != nil
	}
	if w.failed {
		return 0
	}
	value := binary.NativeEndian.Uint64(w.read)
	w.read, w.at = w.read[8:], w.at+8
	return uintptr(value)
}

// isProgramOf says whether the image's name still is the file that the task runs.
func (m image) isProgramOf(tid int) bool {
	var buf [8]byte // the stack goes on that far behind the name, and no farther
	var name []byte
	for end := -1; end < 0; end = bytes.IndexByte(buf[:], 0) {
		if len(name) > unix.PathMax || ptrace.Peek(tid, m.name+uintptr(len(name)), buf[:]) != nil {
			return false
		}
		name = append(name, buf[:]...)
	}
	path := unix.ByteSliceToString(name)
	base := proc.Path(tid, "cwd")
	if filepath.IsAbs(path) {
		base = proc.Path(tid, "root")
	}
	var named, runs unix.Stat_t
	return unix.Stat(base+"/"+path, &named) == nil && unix.Stat(proc.Path(tid, "exe"), &runs) == nil &&
		named.Dev == runs.Dev && named.Ino == runs.Ino
}

// room finds executable memory that nothing uses: the end of the last page of
// the kernel's vdso. Writing there gives the process a copy of its own.
func room(tid, size int) (at uintptr, ok bool) {
	maps, err := kernfs.ReadFile(proc.Path(tid, "maps"))
	if err != nil || size == 0 {
		return 0, false
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		_, rest, _ := strings.Cut(line, "-")
		end, _, _ := strings.Cut(rest, " ")
		address, err := strconv.ParseUint(end, 16, 64)
		there := make([]byte, size)
		at = uintptr(address) - uintptr(size)
		if err != nil || ptrace.Peek(tid, at, there) != nil {
			return 0, false
		}
		return at, len(bytes.Trim(there, "\x00")) == 0
	}
	return 0, false
}
