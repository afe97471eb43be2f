package freezer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace/tracer"
)

// A Capability is something that this package, or a face of it, can do on a
// host that has what it takes.
type Capability struct {
	Name   string `json:"name"`
	Have   bool   `json:"have"`
	Detail string `json:"detail"`        // what there is, or what is missing
	Fix    string `json:"fix,omitempty"` // what would give it; empty when it is there
}

// Probe finds out what this host lets the caller do; the options are Open's. It
// only looks, and changes nothing.
func Probe(opts ...Option) []Capability {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	mounts, _ := mountinfo.Self()
	found := find(mounts)
	list := []Capability{
		probeHierarchy(found, Cgroup2, "Linux 5.2 or later, and: mount -t cgroup2 none DIR"),
		probeHierarchy(found, Cgroup1, "only needed where there is no cgroup2: mount -t cgroup -o freezer freezer DIR"),
	}
	f, err := Open(opts...)
	if err != nil {
		list = append(list, Capability{"groups", false, cause(err), "one of the two above"})
	} else {
		list = append(list, f.probePlace(o.root != ""), f.probeKill(), f.probeHolds(), f.probeSpeed(), f.probeThreads())
	}
	return append(list, probePtrace(), probeSystemd(), probeReasons(), probeFuse(), probeGdb(), probeLog())
}

// cause is the message of an error without the operation that failed.
func cause(err error) string {
	var op *OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return err.Error()
}

func probeHierarchy(found []*backend, name, fix string) Capability {
	for _, b := range found {
		switch {
		case b.name == name && b.readOnly:
			return Capability{name, false, "mounted read-only at " + b.mount, "mount -o remount,rw " + b.mount}
		case b.name == name:
			return Capability{name, true, "mounted at " + b.mount, ""}
		}
	}
	return Capability{name, false, "no hierarchy that can freeze is mounted", fix}
}

// probePlace says where the tree is and why there.
func (f *Freezer) probePlace(asked bool) Capability {
	if f.rootErr != nil {
		return Capability{"groups", false, f.rootErr.Error(), "see there"}
	}
	_, unit := f.backend.unit()
	why := "a directory of root's own at the top"
	switch {
	case asked:
		why = "where it was asked to be"
	case f.backend.name == Ptrace:
		why = "in this user's runtime directory: no cgroup can be written"
	case delegated(f.backend) != "":
		why = "below the highest group that belongs to this user"
	case unit:
		why = "in a unit that systemd delegates"
	}
	groups, _ := f.Groups()
	return Capability{"groups", true, fmt.Sprintf("%s on %s (%s), groups there: %d", f.root, f.Backend(), why, len(groups)), ""}
}

func (f *Freezer) probeKill() Capability {
	const name = "kill"
	if f.backend.name == Cgroup1 {
		return Capability{name, true, "processes are signalled one by one, frozen ones on their way into a thawed group", ""}
	}
	if f.backend.name == Ptrace {
		return Capability{name, true, "processes are held, so that none forks, and then signalled", ""}
	}
	if f.someGroupHas("cgroup.kill") {
		return Capability{name, true, "the kernel ends a group at one stroke (cgroup.kill)", ""}
	}
	return Capability{name, true, "processes are signalled one by one: the kernel has no cgroup.kill, or there is no group yet to see it in", ""}
}

// someGroupHas says whether a group at the top of the hierarchy has a file.
func (f *Freezer) someGroupHas(file string) bool {
	entries, _ := os.ReadDir(f.Mount())
	for _, e := range entries {
		if e.IsDir() {
			return unix.Access(filepath.Join(f.Mount(), e.Name(), file), unix.F_OK) == nil
		}
	}
	return false
}

// probeHolds looks for an attribute that no group has: the errors differ.
func (f *Freezer) probeHolds() Capability {
	const name = "holds"
	_, err := unix.Getxattr(f.Mount(), holdPrefix+DefaultOwner, nil)
	if err == nil || err == unix.ENODATA {
		return Capability{name, true, "groups keep who froze them and why, and since when they exist, in extended attributes", ""}
	}
	return Capability{name, false, "groups have no extended attributes here: " + err.Error(), "Linux 5.7 or later"}
}

func (f *Freezer) probeSpeed() Capability {
	const name = "speed"
	switch {
	case f.backend.warm == nil:
		return Capability{name, true, "the first freeze is as fast as others", ""}
	case f.rootErr == nil && unix.Access(f.warmDir(), unix.F_OK) == nil:
		return Capability{name, true, "an empty frozen group is kept, so that the kernel need not prepare for each first freeze: " + f.warmDir(), ""}
	}
	return Capability{name, false, "the first freeze on this host takes 5 to 15 ms longer", "the first freeze in the tree gives it"}
}

func (f *Freezer) probeThreads() Capability {
	const name = "threads"
	if f.backend.name == Cgroup1 {
		return Capability{name, true, "single threads can be in groups of their own", ""}
	}
	if f.backend.name == Ptrace {
		return Capability{name, false, "groups are for whole processes", "a cgroup hierarchy"}
	}
	groups, err := f.Groups()
	if err != nil || len(groups) == 0 || f.backend.Threaded(f.root) {
		return Capability{name, err == nil, "a tree of groups for single threads can be made, or is there", ""}
	}
	return Capability{name, false, "the tree has groups for whole processes", "a tree without groups, or another one (--root)"}
}

// probePtrace says whom the last resort can freeze.
func probePtrace() Capability {
	h, err := tracer.Find("")
	if err != nil {
		return Capability{Ptrace, false, err.Error(), "mount /proc"}
	}
	if os.Geteuid() == 0 {
		return Capability{Ptrace, true, "freezes without cgroups what nobody else traces; groups in " + h.Mount(), ""}
	}
	scope, _ := kernfs.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	switch {
	case tracer.NeedsRunner():
		return Capability{Ptrace, true, "freezes without cgroups what freezer run has started: kernel.yama.ptrace_scope is 1; groups in " + h.Mount(), ""}
	case len(scope) > 0 && scope[0] > '1':
		return Capability{Ptrace, false, "nothing may be traced: kernel.yama.ptrace_scope is " + string(scope[:1]), "sysctl kernel.yama.ptrace_scope=1"}
	}
	return Capability{Ptrace, true, "freezes without cgroups this user's own processes, but set-user-ID programs; groups in " + h.Mount(), ""}
}

func probeSystemd() Capability {
	const name = "systemd"
	init, err := proc.ReadStat(1)
	if err == nil && init.Command == "systemd" {
		return Capability{name, true, "is PID 1, and can delegate a unit in which users have groups", ""}
	}
	return Capability{name, false, fmt.Sprintf("PID 1 is %s: only root, and who has a cgroup of his own, can have groups", init.Command), "not needed by root"}
}

// probeReasons tries on this process what only root may see of others.
func probeReasons() Capability {
	const name = "reasons"
	_, wchan := kernfs.ReadFile("/proc/self/wchan")
	_, stack := kernfs.ReadFile("/proc/self/stack")
	switch {
	case wchan != nil:
		return Capability{name, false, "the kernel does not say what a task waits for", "a kernel with CONFIG_KALLSYMS and CONFIG_STACKTRACE"}
	case stack != nil:
		return Capability{name, true, "what this user's own tasks wait for; root sees it of all", ""}
	}
	return Capability{name, true, "what each task waits for, and the way there", ""}
}

func probeFuse() Capability {
	const name = "mount"
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Capability{name, false, "/dev/fuse: " + err.Error(), "modprobe fuse; in a container: --device /dev/fuse"}
	}
	unix.Close(fd)
	if os.Geteuid() == 0 {
		return Capability{name, true, "/dev/fuse can be opened", ""}
	}
	if helper := onPath("fusermount3", "fusermount"); helper != "" {
		return Capability{name, true, "/dev/fuse can be opened, and mounted with " + helper, ""}
	}
	return Capability{name, false, "only root can mount without the program fusermount3", "install fuse3"}
}

func probeGdb() Capability {
	if gdb := onPath("gdb"); gdb != "" {
		return Capability{"gdb", true, gdb + ", for the demonstration", ""}
	}
	return Capability{"gdb", false, "the demonstration shows no debugger", "install gdb"}
}

func probeLog() Capability {
	for _, log := range []string{"/run/systemd/journal/socket", "/dev/log"} {
		if unix.Access(log, unix.W_OK) == nil {
			return Capability{"log", true, "who froze, thawed or killed what goes to " + log, ""}
		}
	}
	return Capability{"log", false, "nobody writes down who froze, thawed or killed what", "journald or a syslog daemon"}
}

// onPath returns the path of the first program that is found, or nothing.
func onPath(programs ...string) string {
	for _, program := range programs {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			path := filepath.Join(dir, program)
			if filepath.IsAbs(path) && unix.Access(path, unix.X_OK) == nil {
				return path
			}
		}
	}
	return ""
}

// CleanMounts takes away the mounts of this project whose server is dead, and
// returns where they were.
func CleanMounts() (cleaned []string, err error) {
	mounts, err := mountinfo.Self()
	if err != nil {
		return nil, opError("clean", "", err)
	}
	for _, m := range mounts {
		if !ourMount(m) || !dead(m.Point) {
			continue
		}
		if e := unix.Unmount(m.Point, unix.MNT_DETACH); e != nil {
			err = errors.Join(err, opError("unmount", "", fmt.Errorf("%s: %w", m.Point, e)))
			continue
		}
		cleaned = append(cleaned, m.Point)
	}
	return cleaned, err
}

// deadTime is how long a server may take to show that it lives.
const deadTime = time.Second

// dead says whether nobody serves a mount any more. A server that does not
// answer lives.
func dead(point string) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(point, &st)
	}()
	select {
	case err := <-answer:
		return err == unix.ENOTCONN
	case <-time.After(deadTime):
		return false
	}
}
