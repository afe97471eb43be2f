package freezer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/invisible"
	"github.com/cgfreezer/freezer/internal/kernfs"
)

// A Group is a named set of tasks. It is a handle: the group itself is a
// directory of the kernel's, which anybody can make and remove. A handle keeps
// some descriptors open, once it was used to freeze or to read (four, another
// for each list, and on cgroup2 one for each group above it); Close, or the garbage collector, gives them back. All methods may be called
// concurrently.
type Group struct {
	f       *Freezer
	name    string
	dir     string
	backend *backend
	files   *kernfs.Dir
	cg      cgroup

	changing sync.Mutex // see lock
	settling atomic.Pointer[invisible.Session]
	cleared  atomic.Int64 // when the guard last let it be frozen
	many     bool         // whether it had many processes then; guarded by the guard's mu
}

// Group returns the handle of a group, which need not exist. Names are
//
//	/            the root of the tree
//	sim, sim/a   a group of the tree
//	/x/y         a cgroup that exists already, by its path from the top of the
//	             hierarchy (as /proc/PID/cgroup has it), or by its directory
//
// The error matches ErrName when name is none of these.
func (f *Freezer) Group(name string) (*Group, error) {
	if strings.HasPrefix(name, "/") && name != "/" {
		return f.foreign(name)
	}
	if err := CheckName(name); err != nil {
		return nil, opError("open", "", err)
	}
	if f.rootErr != nil {
		return nil, opError("open", name, f.rootErr)
	}
	dir := f.root
	if name != "/" {
		dir += "/" + name
	}
	return f.handle(name, dir, f.backend), nil
}

func (f *Freezer) handle(name, dir string, b *backend) *Group {
	files := kernfs.NewDir(dir)
	return &Group{f: f, name: name, dir: dir, backend: b, files: files, cg: b.open(files)}
}

// foreign finds a cgroup by path, in the tree's hierarchy first.
func (f *Freezer) foreign(name string) (*Group, error) {
	if strings.ContainsAny(name, "\x00\n") || slices.Contains(strings.Split(name, "/"), "..") {
		return nil, opError("open", "", fmt.Errorf("%w: %q", ErrName, name))
	}
	path := filepath.Clean(name)
	if path == "/" {
		return nil, opError("open", "", fmt.Errorf("%w: %q: the top of the hierarchy is %s", ErrName, name, f.backend.mount))
	}
	var found *Group
	for _, b := range f.backends() {
		dir := path
		if !under(b.mount, path) {
			dir = filepath.Join(b.mount, path)
		}
		g := f.handle(path, dir, b)
		if g.Exists() {
			return g, nil
		}
		if found == nil || dir == path {
			found = g
		}
	}
	return found, nil
}

// CheckName says, with an ErrName, why name cannot be a group of a tree: parts
// are 1 to 255 bytes, neither "." nor "..", without NUL and newline, and not
// like the names of the kernel's own files.
func CheckName(name string) error {
	if name == "/" {
		return nil
	}
	bad := func(why string) error {
		if len(name) > 64 {
			name = name[:64] + "…"
		}
		return fmt.Errorf("%w: %q: %s", ErrName, name, why)
	}
	if len(name) > 4000 {
		return bad("it is too long")
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return bad("a part of it is empty")
		case part == "." || part == "..":
			return bad("it must not leave the tree")
		case len(part) > 255:
			return bad("a part is longer than 255 bytes")
		case strings.ContainsAny(part, "\x00\n"):
			return bad("it has a NUL or a newline")
		case reserved(part):
			return bad("the kernel, or this program, uses that name itself")
		}
	}
	return nil
}

func reserved(part string) bool {
	for _, prefix := range []string{"cgroup.", "freezer.", hiddenPrefix} {
		if strings.HasPrefix(part, prefix) {
			return true
		}
	}
	return part == "tasks" || part == "notify_on_release" || part == "release_agent"
}

// Name is the group's name, as Group got it.
func (g *Group) Name() string { return g.name }

// Dir is the directory of the kernel's that is this group.
func (g *Group) Dir() string { return g.dir }

// Backend is the name of the backend that the group is on.
func (g *Group) Backend() string { return g.backend.name }

// Close gives the handle's descriptors back. It does nothing to the group, and
// the handle can be used again.
func (g *Group) Close() { g.files.Close() }

// Create makes a group whose parent exists (the root of the tree is made when
// need be). Below a frozen parent it is born frozen. The error matches ErrExist
// when it is there already, ErrNotExist when its parent is not.
func (f *Freezer) Create(name string) (*Group, error) {
	g, err := f.Make(name)
	if err == nil {
		g.Stamp(time.Now())
	}
	return g, err
}

// Make is Create, but does not note the time, which takes a quarter of it. See
// Stamp.
func (f *Freezer) Make(name string) (*Group, error) {
	g, err := f.Group(name)
	if err != nil {
		return nil, err
	}
	if g.name != "/" && g.name[0] == '/' {
		return nil, opError("create", name, fmt.Errorf("%w: %q: only groups of the tree can be made, whose names begin without a slash", ErrName, name))
	}
	if g.name == "/" {
		if err := f.makeRoot(); err != nil {
			return nil, opError("create", name, err)
		}
		return nil, opError("create", name, ErrExist)
	}
	err = g.mkdir()
	if err == unix.ENOENT { // the root is missing, too, or the parent
		if err = f.makeRoot(); err == nil {
			err = g.mkdir()
		}
	}
	if err != nil {
		return nil, opError("create", name, err)
	}
	return g, nil
}

// CreateAll is Create for a group and for what is missing above it. A group
// that is there already is no error.
func (f *Freezer) CreateAll(name string) (*Group, error) {
	g, err := f.Group(name)
	if err != nil || name[0] == '/' {
		return g, err
	}
	parts := strings.Split(name, "/")
	for i := range parts {
		_, err := f.Create(strings.Join(parts[:i+1], "/"))
		if err != nil && !errors.Is(err, ErrExist) {
			return nil, err
		}
	}
	return g, nil
}

// createdAttr holds the time at which a group was made: the kernel keeps none.
const createdAttr = "user.freezer.created"

func (g *Group) mkdir() error {
	if err := unix.Mkdir(g.dir, 0o755); err != nil {
		return err
	}
	if err := g.makeThreaded(); err != nil {
		_ = unix.Rmdir(g.dir)
		return err
	}
	return nil
}

// Stamp notes when the group was made, for Created. It does its best.
func (g *Group) Stamp(when time.Time) {
	_ = unix.Setxattr(g.dir, createdAttr, []byte(when.UTC().Format(time.RFC3339Nano)), 0)
}

// makeThreaded makes a new group what its tree is. The first threaded group
// would make those beside it invalid: there must be none.
func (g *Group) makeThreaded() error {
	if g.backend.name != Cgroup2 {
		return nil
	}
	above := filepath.Dir(g.dir)
	begun := g.backend.Threaded(above)
	if !begun && !g.f.threaded {
		return nil
	}
	siblings, err := g.f.handle("", above, g.backend).childDirs()
	if err == nil && (begun || len(siblings) == 1) {
		err = g.backend.MakeThreaded(g.dir)
	} else if err == nil {
		err = unix.EBUSY
	}
	if err != nil {
		return fmt.Errorf("%w: the tree has groups that are not threaded (%w)", ErrUnsupported, err)
	}
	return nil
}

// Created is the time at which the group was made by this package, the zero
// time when something else made it.
func (g *Group) Created() time.Time {
	var buf [64]byte
	n, err := unix.Getxattr(g.dir, createdAttr, buf[:])
	if err != nil {
		return time.Time{}
	}
	t, _ := time.Parse(time.RFC3339Nano, string(buf[:n]))
	return t
}

// ID is the number of the group's directory: a group that is removed and made
// again has another one, and a handle that has noticed so, too.
func (g *Group) ID() (uint64, error) {
	var st unix.Stat_t
	err := g.files.Use(func(fd int) error { return unix.Fstat(fd, &st) })
	return st.Ino, opError("look at", g.name, err)
}

// Exists says whether the group is there now.
func (g *Group) Exists() bool {
	var st unix.Stat_t
	return unix.Stat(g.dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// Remove removes a group that has no tasks and no children; else the error
// matches ErrNotEmpty (EBUSY).
func (g *Group) Remove() error {
	if g.name[0] == '/' && g.name != "/" {
		return opError("remove", g.name, fmt.Errorf("%w: it is not a group of the tree", ErrPermission))
	}
	err := g.rmdir()
	if err == unix.EBUSY {
		err = ErrNotEmpty
	}
	return opError("remove", g.name, err)
}

func (g *Group) rmdir() error {
	if h, ok := g.backend.hierarchy.(keptHierarchy); ok {
		return h.Remove(g.dir)
	}
	err := unix.Rmdir(g.dir)
	// A task that just died is in the way until the kernel has switched away from
	// it: a moment, but seconds for ten thousand where all processors are busy.
	start := time.Now()
	for nap := 200 * time.Microsecond; err == unix.EBUSY && g.emptied() && time.Since(start) < DefaultTimeout; nap = min(2*nap, 10*time.Millisecond) {
		sleep(nap)
		err = unix.Rmdir(g.dir)
	}
	return err
}

// emptied says whether nothing alive and no child is in the group.
func (g *Group) emptied() bool {
	children, err := g.childDirs()
	if err != nil || len(children) > 0 {
		return false
	}
	pids, err := g.backend.Procs(g.dir)
	return err == nil && len(pids) == 0
}

// childDirs lists the names of the directories in the group, hidden ones left out.
func (g *Group) childDirs() ([]string, error) {
	var st unix.Stat_t
	if unix.Stat(g.dir, &st) == nil && st.Nlink == 2 {
		return nil, nil // the kernel counts them, which takes 1 µs instead of 30
	}
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), hiddenPrefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Children returns the groups right below this one, sorted by name.
func (g *Group) Children() ([]*Group, error) {
	names, err := g.childDirs()
	if err != nil {
		return nil, opError("list", g.name, err)
	}
	slices.Sort(names)
	children := make([]*Group, len(names))
	for i, name := range names {
		full := name
		if g.name != "/" {
			full = g.name + "/" + name
		}
		children[i] = g.f.handle(full, g.dir+"/"+name, g.backend)
	}
	return children, nil
}

// Walk returns the group and everything below it, parents before children,
// siblings by name. Groups that vanish meanwhile are left out.
func (g *Group) Walk() ([]*Group, error) {
	children, err := g.Children()
	if err != nil {
		return nil, err
	}
	out := []*Group{g}
	for _, c := range children {
		below, err := c.Walk()
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	return out, nil
}

// Groups lists all groups of the tree, without its root, in the order of Walk.
// A tree that does not exist yet has none.
func (f *Freezer) Groups() ([]*Group, error) {
	root, err := f.Group("/")
	if err != nil {
		return nil, err
	}
	all, err := root.Walk()
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return all[1:], nil
}
