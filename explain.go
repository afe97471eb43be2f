package freezer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

// explain says in words what a task that is not frozen does, and what would
// let it freeze. The kernel function that it sleeps in tells most.
func explain(t *taskInfo) Cause {
	if tracer := t.tracer(); tracer != 0 && (t.State == 't' || t.State == 'T') {
		return Cause{
			Reason:  "is stopped by the debugger " + nameOf(tracer),
			Release: "let it go on in the debugger, or quit that",
			Process: tracer,
		}
	}
	in := func(functions ...string) bool {
		return t.wchan != "" && slices.ContainsFunc(functions, func(f string) bool { return strings.HasPrefix(t.wchan, f) })
	}
	switch {
	case in("request_wait_answer", "fuse_", "__fuse_"):
		return t.waitsForFuse()
	case in("rpc_", "nfs", "__rpc"):
		return t.waitsForNFS()
	case in("percpu_rwsem_wait", "mnt_want_write", "sb_start_write", "__sb_start_write"):
		return t.waitsForThaw()
	case in("kernel_clone", "wait_for_vfork_done", "_do_fork"):
		return t.waitsForChild()
	case in("io_schedule", "folio_wait", "wait_on_page", "blk_", "submit_bio_wait", "rq_qos_wait", "jbd2_", "wait_on_buffer", "__wait_on_buffer", "bit_wait_io"):
		return t.waitsForDevice()
	}
	switch t.State {
	case 'R':
		return Cause{
			Reason:  "is still running, inside the kernel or on its way to the freezer",
			Release: "nothing to do: it freezes when it next leaves the kernel; freeze again",
		}
	case 'D':
		c := Cause{
			Reason:  "waits inside the kernel and cannot be interrupted",
			Release: fmt.Sprintf("see what it waits for in /proc/%d/stack and in dmesg", t.ID),
		}
		if t.wchan != "" {
			c.Reason += " (in " + t.wchan + ")"
		}
		return c
	}
	return Cause{
		Reason:  "has just arrived, or is about to freeze",
		Release: "nothing to do: it freezes in a moment; freeze again",
	}
}

func (t *taskInfo) waitsForFuse() Cause {
	c := t.fileCause()
	m := t.mountAt(c.Mount)
	if !strings.HasPrefix(m.Type, "fuse") { // none was found, or a link leads from there to where it waits
		return Cause{
			File:    c.File,
			Reason:  "waits for a FUSE server that does not answer",
			Release: "let that server go on, or end it, or abort its connection: echo 1 > /sys/fs/fuse/connections/N/abort",
		}
	}
	_, connection, _ := strings.Cut(m.Device, ":")
	c.Process = fuseServer(connection)
	c.Reason = "waits for the FUSE server of " + c.Mount
	server := "that server"
	if c.Process != 0 {
		server = nameOf(c.Process)
		c.Reason += ", " + server
	}
	c.Reason += ", which does not answer"
	c.Release = fmt.Sprintf("let %s go on, or end it, or abort its connection: echo 1 > /sys/fs/fuse/connections/%s/abort", server, connection)
	return c
}

// fuseServer finds the process that has a FUSE connection open; 0 when that
// cannot be told: before Linux 6.16 the kernel does not show it.
func fuseServer(connection string) int {
	for _, pid := range proc.All() {
		fds, err := os.ReadDir(proc.Path(pid, "fd"))
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, err := os.Readlink(proc.Path(pid, "fd/"+fd.Name())); err != nil || to != "/dev/fuse" {
				continue
			}
			text, err := kernfs.ReadFile(proc.Path(pid, "fdinfo/"+fd.Name()))
			if err == nil && proc.StatusField(text, "fuse_connection") == connection {
				return pid
			}
		}
	}
	return 0
}

func (t *taskInfo) waitsForNFS() Cause {
	c := t.fileCause()
	if c.Mount == "" {
		c.Reason = "waits for an NFS server that does not answer"
		c.Release = "bring the server back, or give up what hangs with umount -f"
		return c
	}
	c.Reason = "waits for the NFS server of " + c.Mount + " (" + c.Source + "), which does not answer"
	c.Release = "bring the server back, or give up what hangs: umount -f " + c.Mount
	return c
}

func (t *taskInfo) waitsForThaw() Cause {
	c := t.fileCause()
	if c.Mount == "" {
		c.Reason = "writes to a file system that is frozen"
		c.Release = "thaw the file system: fsfreeze --unfreeze MOUNTPOINT"
		return c
	}
	c.Reason = "writes to " + c.Mount + " (" + c.Source + "), a file system that is frozen"
	c.Release = "thaw the file system: fsfreeze --unfreeze " + c.Mount
	return c
}

func (t *taskInfo) waitsForDevice() Cause {
	c := t.fileCause()
	c.Release = "wait for the device; dmesg tells when it is stuck"
	if c.Mount == "" {
		c.Reason = "waits for a block device"
		return c
	}
	c.Reason = "waits for the device " + c.Source + ", which carries " + c.Mount
	return c
}

func (t *taskInfo) waitsForChild() Cause {
	c := Cause{
		Reason:  "waits in vfork until its child execs or ends",
		Release: "let the child run: it may be in a group that is frozen",
	}
	text, _ := kernfs.ReadFile(proc.Path(t.ID, "task/"+strconv.Itoa(t.ID)+"/children"))
	for _, word := range bytes.Fields(text) {
		if pid, err := strconv.Atoi(string(word)); err == nil {
			c.Process = pid // the youngest is the last
		}
	}
	if c.Process != 0 {
		c.Reason = "waits in vfork until its child " + nameOf(c.Process) + " execs or ends"
		c.Release = "let that child run" + frozenSomewhere(c.Process)
	}
	return c
}

// frozenSomewhere names the group in which a task is frozen, as an addition to
// a sentence.
func frozenSomewhere(pid int) string {
	cgroups, err := proc.Cgroups(pid)
	if err != nil {
		return ""
	}
	text, _ := kernfs.ReadFile(proc.Path(pid, "wchan"))
	if wchan := string(text); wchan != "get_signal" && wchan != "do_freezer_trap" && wchan != "__refrigerator" {
		return ""
	}
	for _, c := range cgroups {
		if (c.V2 || c.Has("freezer")) && c.Path != "/" {
			return ": it is frozen itself, in " + c.Path
		}
	}
	return ""
}

// nameOf is a process as messages name it.
func nameOf(pid int) string {
	s, err := proc.ReadStat(pid)
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%s (process %d)", s.Command, pid)
}

func (t *taskInfo) tracer() int {
	pid, _ := strconv.Atoi(proc.Status(t.ID, "TracerPid"))
	return pid
}

// readSyscall reads the system call that the task is in.
func (t *taskInfo) readSyscall() {
	text, err := kernfs.ReadFile(proc.Path(t.ID, "syscall"))
	if err != nil {
		return
	}
	words := strings.Fields(string(text))
	if len(words) == 0 {
		return
	}
	t.syscall = words[0]
	for _, w := range words[1:] {
		if n, err := strconv.ParseUint(strings.TrimPrefix(w, "0x"), 16, 64); err == nil && len(t.args) < 6 {
			t.args = append(t.args, n)
		}
	}
}

// fileCause finds the file that the task's system call is about, and where that
// is mounted. What cannot be found is empty.
func (t *taskInfo) fileCause() (c Cause) {
	c.File = t.file()
	if c.File == "" {
		return c
	}
	best := mountinfo.Mount{}
	for _, m := range t.mounts() {
		if under(m.Point, c.File) && len(m.Point) >= len(best.Point) {
			best = m
		}
	}
	c.Mount, c.Source = best.Point, best.Source
	return c
}

func (t *taskInfo) mounts() []mountinfo.Mount {
	text, _ := kernfs.ReadFile(proc.Path(t.ID, "mountinfo"))
	return mountinfo.Parse(text)
}

func (t *taskInfo) mountAt(point string) (last mountinfo.Mount) {
	for _, m := range t.mounts() {
		if m.Point == point {
			last = m
		}
	}
	return last
}

// file is the path of the file that the system call names, by a descriptor or
// by a path in the task's memory. A file that the call is not about but whose
// page it needs cannot be found.
func (t *taskInfo) file() string {
	number, err := strconv.Atoi(t.syscall)
	if err != nil || len(t.args) < 2 {
		return ""
	}
	switch {
	case slices.Contains(callsWithFile, number):
		return t.link("fd/" + strconv.Itoa(int(int32(t.args[0]))))
	case slices.Contains(callsWithPath, number):
		return t.resolve(t.link("cwd"), t.args[0])
	case slices.Contains(callsWithDirAndPath, number):
		dir := t.link("cwd")
		if fd := int32(t.args[0]); fd != unix.AT_FDCWD {
			dir = t.link("fd/" + strconv.Itoa(int(fd)))
		}
		return t.resolve(dir, t.args[1])
	}
	return ""
}

func (t *taskInfo) link(name string) string {
	to, _ := os.Readlink(proc.Path(t.ID, name))
	return strings.TrimSuffix(to, " (deleted)")
}

// resolve reads a path at an address of the task's memory.
func (t *taskInfo) resolve(dir string, address uint64) string {
	buf := make([]byte, 4096)
	for size := len(buf); size >= 64; size /= 2 { // less when it lies at the end of a mapping
		local := unix.Iovec{Base: &buf[0]}
		local.SetLen(size)
		remote := unix.RemoteIovec{Base: uintptr(address), Len: size}
		n, err := unix.ProcessVMReadv(t.ID, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
		if err != nil {
			continue
		}
		path, _, ok := strings.Cut(string(buf[:n]), "\x00")
		if !ok || path == "" {
			return ""
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return filepath.Clean(path)
	}
	return ""
}
