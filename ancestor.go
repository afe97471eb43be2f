package freezer

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FrozenBy returns the nearest group above this one that is freezing, which must
// be thawed for this one to run; nil when there is none.
func (g *Group) FrozenBy() (*Group, error) {
	for dir := filepath.Dir(g.dir); len(dir) > len(g.backend.mount); dir = filepath.Dir(dir) {
		above := g.f.handle(g.f.nameOf(dir, g.backend), dir, g.backend)
		on, err := above.cg.Freezing()
		above.Close()
		if err == unix.ENOENT { // a namespace's root has no such file
			continue
		}
		if err != nil {
			return nil, opError("state", above.name, err)
		}
		if on {
			return above, nil
		}
	}
	return nil, nil
}

// nameOf is the name under which Group finds the directory.
func (f *Freezer) nameOf(dir string, b *backend) string {
	switch {
	case b == f.backend && f.rootErr == nil && dir == f.root:
		return "/"
	case b == f.backend && f.rootErr == nil && under(f.root, dir):
		return dir[len(f.root)+1:]
	}
	return dir[len(b.mount):]
}
