package freezer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/cgroup1"
	"github.com/cgfreezer/freezer/internal/cgroup2"
	"github.com/cgfreezer/freezer/internal/mountinfo"
)

// The names of the backends.
const (
	Cgroup2 = "cgroup2"
	Cgroup1 = "cgroup1"
)

// treeName is the directory that holds the tree of groups, where nobody chose
// another; hiddenPrefix begins the names of directories that are no groups.
const (
	treeName     = "freezer"
	hiddenPrefix = ".freezer-"
)

// A backend is one of the kernel's hierarchies: the smallest set of operations
// from which this package does the rest, once for all of them. Directories are
// absolute paths below the mount. Errors are plain errnos; a group that is not
// there is ENOENT or ENODEV, a task that is not there ESRCH. All methods may be
// called concurrently.
type backend struct {
	name     string
	mount    string
	readOnly bool
	hierarchy
	open func(dir string) cgroup
	warm func(dir string) error // makes freezing fast on this host; nil where it is
}

type hierarchy interface {
	Dir(id int) (string, error) // in which group a task is
	Procs(dir string) ([]int, error)
	Threads(dir string) ([]int, error)
	MoveProcess(dir string, pid int) error
	MoveThread(dir string, tid int) error
	Threaded(dir string) bool      // single threads can be moved there
	MakeThreaded(dir string) error // of an empty group, whose parent then is the root of a threaded tree
	Kill(dir string) error         // everything below dir at one stroke, or EOPNOTSUPP
	FrozenDie() bool               // SIGKILL ends a frozen task at once
}

// A cgroup is the freezer of one group.
type cgroup interface {
	Prepare() error // open what freezing needs
	Close()
	Freezing() (bool, error) // self state
	ParentFreezing() (bool, error)
	SetFreezing(bool) error
	Frozen() (bool, error)               // each task, here and below, is frozen
	Renew() error                        // ask again for FROZEN, where that helps; it must be safe to call each millisecond
	Event(wait func(fd int) error) error // wait gets a descriptor to poll for POLLPRI; EOPNOTSUPP where there is none
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

// WithBackend insists on one backend, by its name: Cgroup2 or Cgroup1.
func WithBackend(name string) Option { return func(o *options) { o.backend = name } }

// WithThreads makes new groups threaded, so that single threads can be moved
// into them. On cgroup2 this is possible only while the tree has no ordinary
// groups (Create then returns ErrUnsupported), and Kill and memory figures are
// the tree's; on cgroup1 every group is so anyway.
func WithThreads() Option { return func(o *options) { o.threaded = true } }

// Open finds out how tasks can be frozen on this host (the unified hierarchy,
// else the cgroup1 freezer) and where groups can live: in the root that was
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
	f := &Freezer{threaded: o.threaded}
	if o.mounts == nil {
		mounts, err := mountinfo.Self()
		if err != nil {
			return nil, &OpError{"open", "", fmt.Errorf("%w: /proc/self/mountinfo: %w", ErrNoBackend, err)}
		}
		o.mounts = mounts
	}
	backends := find(o.mounts)
	if o.backend != "" && o.backend != Cgroup1 && o.backend != Cgroup2 {
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
		found = append(found, &backend{Cgroup2, h.Mount, h.ReadOnly, h, func(dir string) cgroup { return h.Open(dir) }, nil})
	}
	if h, ok := cgroup1.Find(mounts); ok {
		found = append(found, &backend{Cgroup1, h.Mount, h.ReadOnly, h, func(dir string) cgroup { return h.Open(dir) }, h.Warm})
	}
	return found
}

// hasFreezer says whether the unified hierarchy can freeze: it can since Linux
// 5.2. Only groups have the file, so where there is no group at all the
// presence of pidfd_open (5.3) decides.
func hasFreezer(h *cgroup2.Hierarchy) bool {
	entries, _ := os.ReadDir(h.Mount)
	for _, e := range entries {
		if e.IsDir() {
			return unix.Access(filepath.Join(h.Mount, e.Name(), "cgroup.freeze"), unix.F_OK) == nil
		}
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

func (f *Freezer) choose(backends []*backend, o options) error {
	fits := func(b *backend) bool {
		return (o.backend == "" || b.name == o.backend) && (o.root == "" || under(b.mount, o.root))
	}
	// A place that can be written in the second hierarchy is better than none in the first.
	for _, b := range backends {
		if !fits(b) {
			continue
		}
		root, err := place(b, o.root)
		if f.backend == nil || f.rootErr != nil && err == nil {
			f.backend, f.root, f.rootErr = b, root, err
		}
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

// Root is the directory that holds the tree, empty when there is no place for
// one. It need not exist yet.
func (f *Freezer) Root() string { return f.root }

// Mount is the mount point of the tree's hierarchy.
func (f *Freezer) Mount() string { return f.backend.mount }
