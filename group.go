package freezer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Group is a named set of tasks. It is a handle: the group itself is a
// directory of the kernel's, which anybody can make and remove. A handle keeps
// up to two descriptors open, once it was used to freeze or to read a state;
// Close, or the garbage collector, gives them back. All methods may be called
// concurrently.
type Group struct {
	f       *Freezer
	name    string
	dir     string
	backend *backend
	cg      cgroup
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
	return &Group{f: f, name: name, dir: dir, backend: b, cg: b.open(dir)}
}

// foreign finds a cgroup by path, in the tree's hierarchy first.
func (f *Freezer) foreign(name string) (*Group, error) {
	if strings.ContainsAny(name, "\x00\n") || slices.Contains(strings.Split(name, "/"), "..") {
		return nil, opError("open", "", fmt.Errorf("%w: %q", ErrName, name))
	}
	path := filepath.Clean(name)
	all := append([]*backend{f.backend}, f.others...)
	for _, b := range all {
		dir := path
		if !under(b.mount, path) {
			dir = filepath.Join(b.mount, path)
		}
		if _, err := os.Stat(dir); err == nil {
			return f.handle(path, dir, b), nil
		}
	}
	b := all[0]
	return f.handle(path, filepath.Join(b.mount, path), b), nil
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
func (g *Group) Close() { g.cg.Close() }

// Create makes a group whose parent exists (the root of the tree is made when
// need be). Below a frozen parent it is born frozen. The error matches ErrExist
// when it is there already, ErrNotExist when its parent is not.
func (f *Freezer) Create(name string) (*Group, error) {
	g, err := f.Group(name)
	if err != nil {
		return nil, err
	}
	if g.name != "/" && g.name[0] == '/' {
		return nil, opError("create", name, fmt.Errorf("%w: %q: only groups of the tree can be made, whose names begin without a slash", ErrName, name))
	}
	if err := f.makeRoot(); err != nil {
		return nil, opError("create", name, err)
	}
	if g.name == "/" {
		return nil, opError("create", name, ErrExist)
	}
	return g, opError("create", name, g.mkdir())
}

// CreateAll is Create for a group and for what is missing above it. A group
// that is there already is no error.
func (f *Freezer) CreateAll(name string) (*Group, error) {
	parts := strings.Split(name, "/")
	if name == "/" || name == "" || parts[0] == "" {
		return f.Group(name)
	}
	for i := range parts {
		_, err := f.Create(strings.Join(parts[:i+1], "/"))
		if err != nil && !errors.Is(err, ErrExist) {
			return nil, err
		}
	}
	return f.Group(name)
}

// makeRoot makes the tree's own directory, below one that exists.
func (f *Freezer) makeRoot() error {
	err := unix.Mkdir(f.root, 0o755)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// createdAttr holds the time at which a group was made: the kernel keeps none.
const createdAttr = "user.freezer.created"

func (g *Group) mkdir() error {
	if err := unix.Mkdir(g.dir, 0o755); err != nil {
		return err
	}
	if g.f.threaded || g.backend.name == Cgroup2 && g.backend.Threaded(filepath.Dir(g.dir)) {
		if err := g.backend.MakeThreaded(g.dir); err != nil {
			_ = unix.Rmdir(g.dir)
			return fmt.Errorf("%w: the tree has groups that are not threaded (%w)", ErrUnsupported, err)
		}
	}
	_ = unix.Setxattr(g.dir, createdAttr, []byte(time.Now().UTC().Format(time.RFC3339Nano)), 0)
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
	err := unix.Rmdir(g.dir)
	for range 50 { // a task that just died is still in the way for a moment
		if err != unix.EBUSY || !g.emptied() {
			break
		}
		time.Sleep(200 * time.Microsecond)
		err = unix.Rmdir(g.dir)
	}
	if err == unix.EBUSY {
		err = ErrNotEmpty
	}
	return opError("remove", g.name, err)
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

// compareGroups orders handles by backend and directory.
func compareGroups(a, b *Group) int {
	return cmp.Or(cmp.Compare(a.backend.name, b.backend.name), cmp.Compare(a.dir, b.dir))
}
