package freezer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/cgroup1"
	"github.com/cgfreezer/freezer/internal/cgroup2"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
	"github.com/cgfreezer/freezer/internal/ptrace/tracer"
)

// The names of the backends.
const (
	Cgroup2 = "cgroup2"
	Cgroup1 = "cgroup1"
	Ptrace  = "ptrace"
)

// treeName is the directory that holds the tree of groups, where nobody chose
// another; hiddenPrefix begins the names of directories that are no groups.
const (
	treeName     = "freezer"
	hiddenPrefix = ".freezer-"
)

// A backend is one of the kernel's hierarchies, or what stands in for them: the
// smallest set of operations from which this package does the rest, once for all of them. Directories are
// absolute paths below the mount. Errors are plain errnos; a group that is not
// there is ENOENT or ENODEV, a task that is not there ESRCH. All methods may be
// called concurrently.
type backend struct {
	name     string
	mount    string
	readOnly bool
	hierarchy
	open func(dir *kernfs.Dir) cgroup
	warm func(dir string) error // makes freezing fast on this host; nil where it is
}

type hierarchy interface {
	Dir(id int) (string, error) // in which group a task is
	DirIn(cgroups []proc.Cgroup) (string, error)
	Procs(dir string) ([]int, error)
	Threads(dir string) ([]int, error)
	MoveProcess(dir string, pid int) error
	MoveThread(dir string, tid int) error
	Threaded(dir string) bool      // single threads can be moved there
	MakeThreaded(dir string) error // of an empty group, whose parent then is the root of a threaded tree
	Kill(dir string) error         // everything below dir at one stroke, or EOPNOTSUPP
	FrozenDie() bool               // SIGKILL ends a frozen task at once

	// FrozenTask says whether a task of a freezing group looks frozen; wchan is
	// empty where /proc does not show it.
	FrozenTask(s proc.Stat, wchan string) bool
}

// A keptHierarchy is one that is not the kernel's: groups are this package's
// own directories.
type keptHierarchy interface {
	Make() error                                  // what must be there before the first group
	Remove(dir string) error                      // rmdir(2), which would not mind tasks
	WhyLate(tid int) (reason, release string)     // why a task is not frozen; empty when the kernel tells
	Mark(dir string) (variable string, err error) // for the environment of those who belong to the group
}

// A cgroup is the freezer of one group, by the files of its directory: when
// another group has got the name meanwhile, errors are ENODEV.
type cgroup interface {
	Prepare() error          // open what freezing needs
	Freezing() (bool, error) // self state
	ParentFreezing() (bool, error)
	SetFreezing(bool) error
	Frozen() (bool, error)               // each task, here and below, is frozen
	Renew() error                        // ask again for FROZEN, where that helps; it must be safe to call each millisecond
	Event(wait func(fd int) error) error // wait gets a descriptor to poll for POLLPRI; EOPNOTSUPP where there is none
	Locked(do func(fd int) error) error  // do gets a descriptor to flock, the same each time
	Processes() ([]int, error)           // in the group itself, in any order
	Tasks() ([]int, error)
}

// A Freezer is a tree of groups on this host. All methods may be called
// concurrently, and any number of processes may work on one tree.
type Freezer struct {
	backend  *backend
	others   []*backend // hierarchies in which groups named by a path are looked up, too
	root     string     // the directory that is the tree's /
	rootErr  error      // why there is none
	threaded bool       // groups made from now on are threaded
	guard    guard
	opened   time.Time
	mounts   []mountinfo.Mount // as of then
	warmed   atomic.Bool
}

type options struct {
	root     string
	backend  string
	threaded bool
	mounts   []mountinfo.Mount
}

// An Option changes what Open opens.
type Option func(*options)

// WithRoot makes dir, the path of a cgroup's directory, the root of the tree.
// Open does not create it: Create does.
func WithRoot(dir string) Option { return func(o *options) { o.root = dir } }

// WithBackend insists on one backend, by its name: Cgroup2, Cgroup1 or Ptrace.
func WithBackend(name string) Option { return func(o *options) { o.backend = name } }

// WithThreads makes new groups threaded, so that single threads can be moved
// into them. On cgroup2 this is possible only while the tree has no ordinary
// groups (Create then returns ErrUnsupported), and Kill and memory figures are
// the tree's; on cgroup1 every group is so anyway.
func WithThreads() Option { return func(o *options) { o.threaded = true } }

// Open finds out how tasks can be frozen on this host (the unified hierarchy,
// else the cgroup1 freezer, else by ptrace) and where groups can live: in the root that was
// given; else below the highest group that belongs to the caller; else, where
// systemd is PID 1, in a unit that it delegates; else, for root, in a directory
// of its own at the top. Nothing is created before the first group is.
//
// The error is ErrNoBackend when the host has no freezer at all. A host that has
// one, but no place where the caller could make groups, can still be opened, to
// work on groups that exist; what needs a place then fails with the reason.
func Open(opts ...Option) (*Freezer, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.root != "" {
		o.root = filepath.Clean(o.root)
	}
	f := &Freezer{threaded: o.threaded, opened: time.Now()}
	if o.mounts == nil {
		mounts, err := mountinfo.Self()
		if err == unix.EMFILE {
			return nil, opError("open", "", err)
		}
		if err != nil {
			return nil, &OpError{"open", "", fmt.Errorf("%w: /proc/self/mountinfo: %w", ErrNoBackend, err)}
		}
		o.mounts = mounts
	}
	f.mounts = o.mounts
	backends := find(o.mounts)
	if !slices.Contains([]string{"", Cgroup2, Cgroup1, Ptrace}, o.backend) {
		return nil, &OpError{"open", "", fmt.Errorf("%w: unknown backend %q", ErrNoBackend, o.backend)}
	}
	if err := f.choose(backends, o); err != nil {
		return nil, &OpError{"open", "", err}
	}
	return f, nil
}

// find returns the hierarchies that are mounted here, the preferred one first.
func find(mounts []mountinfo.Mount) []*backend {
	var found []*backend
	if h, ok := cgroup2.Find(mounts); ok && hasFreezer(h) {
		found = append(found, &backend{Cgroup2, h.Mount, h.ReadOnly, h, func(dir *kernfs.Dir) cgroup { return h.Open(dir) }, nil})
	}
	if h, ok := cgroup1.Find(mounts); ok {
		found = append(found, &backend{Cgroup1, h.Mount, h.ReadOnly, h, func(dir *kernfs.Dir) cgroup { return h.Open(dir) }, h.Warm})
	}
	return found
}

// hasFreezer says whether the unified hierarchy can freeze. It can since Linux
// 5.2, so also where there is pidfd_open, of 5.3, which is the quicker thing to
// ask. Only groups have the file that tells for sure.
func hasFreezer(h *cgroup2.Hierarchy) bool {
	if fd, err := unix.PidfdOpen(os.Getpid(), 0); err == nil {
		unix.Close(fd)
		return true
	}
	files, _ := filepath.Glob(h.Mount + "/*/cgroup.freeze")
	return len(files) > 0
}

func (f *Freezer) choose(backends []*backend, o options) error {
	fits := func(b *backend) bool {
		return (o.backend == "" || b.name == o.backend) && (o.root == "" || under(b.mount, o.root))
	}
	// A place that can be written in the second hierarchy is better than none in the first.
	for _, b := range backends {
		if !fits(b) || f.backend != nil && f.rootErr == nil {
			continue
		}
		root, err := place(b, o.root)
		if f.backend == nil || f.rootErr != nil && err == nil {
			f.backend, f.root, f.rootErr = b, root, err
		}
	}
	if f.backend == nil || f.rootErr != nil {
		f.resort(o)
	}
	if f.backend == nil {
		return noBackend(backends, o)
	}
	for _, b := range backends {
		if b != f.backend {
			f.others = append(f.others, b)
		}
	}
	return nil
}

// resort chooses the backend that needs no hierarchy, where none will do.
func (f *Freezer) resort(o options) {
	if o.backend != "" && o.backend != Ptrace {
		return
	}
	h, err := tracer.Find(o.root)
	if err != nil || o.root != "" && !under(h.Mount(), o.root) {
		return
	}
	b := &backend{Ptrace, h.Mount(), false, h, func(dir *kernfs.Dir) cgroup { return h.Open(dir) }, nil}
	if root, err := place(b, o.root); err == nil {
		f.backend, f.root, f.rootErr = b, root, nil
	}
}

func noBackend(backends []*backend, o options) error {
	var have []string
	for _, b := range backends {
		have = append(have, b.name+" at "+b.mount)
	}
	switch {
	case len(have) == 0:
		return fmt.Errorf("%w: neither cgroup2 nor the cgroup1 freezer is mounted", ErrNoBackend)
	case o.root != "":
		return fmt.Errorf("%w: the root %s is in no freezer hierarchy; here is %s", ErrNoBackend, o.root, strings.Join(have, ", "))
	}
	return fmt.Errorf("%w: %s is not mounted; here is %s", ErrNoBackend, o.backend, strings.Join(have, ", "))
}

// under says whether path is dir or lies below it.
func under(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}

// Backend is the name of the backend that holds the tree.
func (f *Freezer) Backend() string { return f.backend.name }

// backends are all that groups can be on, the tree's first.
func (f *Freezer) backends() []*backend { return append([]*backend{f.backend}, f.others...) }

// Root is the directory that holds the tree, empty when there is no place for
// one. It need not exist yet.
func (f *Freezer) Root() string { return f.root }

// Mount is the mount point of the tree's hierarchy.
func (f *Freezer) Mount() string { return f.backend.mount }
