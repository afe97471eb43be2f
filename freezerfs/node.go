package freezerfs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A node is a group that the kernel remembers. It is the very group: one that is
// removed and made again is another node, because the kernel gives its directory
// another number (64 bits, never used twice). A plain directory's number, by
// ptrace, is used again as soon as nobody has the directory open, so there it is
// kept open.
//
// The number is the node's, too, and those of its files are the same with the
// file's number in the topmost bits, which leaves nothing to be remembered for files.
type node struct {
	id      uint64 // of the kernel's directory; fuse.FUSE_ROOT_ID for the root of the tree
	dir     int    // a descriptor that keeps the number from being used again; -1 where it never is
	parent  *node  // guarded by nodes.mu, as all below
	name    string // in the parent
	lookups uint64 // how many answers the kernel has about it and its files
}

func (n *node) isRoot() bool { return n.id == fuse.FUSE_ROOT_ID }

const (
	fileShift = 59
	groupMask = 1<<fileShift - 1
)

// fileTime is how long the kernel may remember what is under the name of a file:
// the files of a group are there, the same, as long as the group is. What is
// under a group's own name it asks each time, lest mounts disagree.
const fileTime = time.Hour

// nodes are those that the kernel remembers, by number.
type nodes struct {
	mu   sync.RWMutex
	all  map[uint64]*node
	root *node
}

func (ns *nodes) init() {
	ns.root = &node{id: fuse.FUSE_ROOT_ID, dir: -1, lookups: 1}
	ns.all = map[uint64]*node{ns.root.id: ns.root}
}

// get returns the node, and the file in it unless the number is the group's own.
func (ns *nodes) get(number uint64) (*node, *file) {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.all[number&groupMask], fileByNumber(number >> fileShift)
}

// remember is to be called for each answer about a group that the kernel gets. It
// takes the descriptor over.
func (ns *nodes) remember(parent *node, name string, id uint64, dir int) *node {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.all[id]
	if n == nil {
		n = &node{id: id, dir: dir}
		ns.all[id] = n
	} else if dir >= 0 {
		unix.Close(dir)
	}
	n.parent, n.name = parent, name // cgroup1 knows rename
	n.lookups++
	return n
}

// again is remember for a file of a node.
func (ns *nodes) again(n *node) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n.lookups++
}

func (ns *nodes) forget(number, lookups uint64) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.all[number&groupMask]
	if n == nil || n == ns.root {
		return
	}
	if n.lookups -= min(lookups, n.lookups); n.lookups == 0 {
		delete(ns.all, n.id)
		if n.dir >= 0 {
			unix.Close(n.dir)
		}
	}
}

// path is the node's name in the tree: "/" for the root, "sim/a".
func (ns *nodes) path(n *node) string {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	if n.isRoot() {
		return "/"
	}
	path := n.name
	for p := n.parent; !p.isRoot(); p = p.parent {
		path = p.name + "/" + path
	}
	return path
}

// Forget is told when the kernel remembers a node no more.
func (fs *fileSystem) Forget(number, lookups uint64) { fs.nodes.forget(number, lookups) }

// A group is a node at its place at this moment.
type group struct {
	*node
	path string // from the root of the tree; "." for that itself
	stat unix.Stat_t
}

// join is the path of something in the group.
func (g *group) join(name string) string {
	if g.isRoot() {
		return name
	}
	return g.path + "/" + name
}

// dir is the kernel's directory of the group.
func (fs *fileSystem) dir(g *group) string {
	if g.isRoot() {
		return fs.f.Root()
	}
	return fs.f.Root() + "/" + g.path
}

// locate finds the node's directory and makes sure that it is still the same
// group; ENOENT says that it was removed.
func (fs *fileSystem) locate(n *node) (*group, error) {
	if n == nil {
		return nil, unix.ENOENT
	}
	g := &group{node: n, path: "."}
	if !n.isRoot() {
		g.path = fs.nodes.path(n)
	}
	var err error
	g.stat, err = fs.root.stat(g.path)
	if err == nil && g.stat.Ino != n.id && !n.isRoot() {
		err = unix.ENOENT
	}
	return g, err
}

// find returns what a request is about: the group, and the file in it unless it
// is about the group itself. The caller may have come to a file by what the kernel
// remembers from others, so whether he may search the group is asked here, too.
func (fs *fileSystem) find(number uint64, c caller) (*group, *file, error) {
	n, file := fs.nodes.get(number)
	g, err := fs.locate(n)
	if err == nil && file != nil {
		err = c.may(maySearch, &g.stat)
	}
	return g, file, err
}
