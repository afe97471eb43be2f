package freezer_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
)

// FuzzGroupName sees that a name that is accepted stays in the tree and makes a
// directory, and that one that is refused is refused in the same way everywhere.
func FuzzGroupName(f *testing.F) {
	for _, name := range []string{"/", "sim", "sim/rank0", "a/../b", "..", ".", "a//b", "", "/x", "a\n", "a\x00", "tasks", "cgroup.procs", ".freezer-warm", strings.Repeat("x", 256), "ä/ö", "…", "a/.b"} {
		f.Add(name)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, name string) {
		err := freezer.CheckName(name)
		if err != nil {
			if !errors.Is(err, freezer.ErrName) || freezer.Errno(err) != syscall.EINVAL {
				t.Errorf("CheckName(%q) = %v", name, err)
			}
			return
		}
		if name == "/" {
			return
		}
		path := dir + "/" + name
		if filepath.Clean(path) != path || !filepath.IsLocal(name) {
			t.Errorf("%q leaves the tree, or is not the only name of what it names", name)
		}
		if err := os.MkdirAll(path, 0o755); err != nil && !errors.Is(err, syscall.ENAMETOOLONG) {
			t.Errorf("%q is accepted, but: %v", name, err)
		}
		top, _, _ := strings.Cut(name, "/")
		if err := os.RemoveAll(filepath.Join(dir, top)); err != nil {
			t.Error(err)
		}
	})
}

// FuzzGroup sees that whatever a name means lies below the tree's root or,
// when it begins with a slash, below a mount of the hierarchies.
func FuzzGroup(f *testing.F) {
	for _, name := range []string{"/", "sim", "//", "/.", "/..", "/a/../..", "/sys/fs/cgroup", "/sys/fs/cgroup/../../etc", "/x\n", "a/b"} {
		f.Add(name)
	}
	opened, err := freezer.Open()
	if err != nil {
		f.Skip(err)
	}
	mounts := []string{opened.Mount()}
	for _, backend := range []string{freezer.Cgroup1, freezer.Cgroup2} {
		if one, err := freezer.Open(freezer.WithBackend(backend)); err == nil {
			mounts = append(mounts, one.Mount())
		}
	}
	f.Fuzz(func(t *testing.T, name string) {
		g, err := opened.Group(name)
		if err != nil {
			return
		}
		defer g.Close()
		dir := g.Dir()
		if filepath.Clean(dir) != dir {
			t.Errorf("%q is at %q", name, dir)
		}
		if name == "/" || !strings.HasPrefix(name, "/") {
			if dir != opened.Root() && !strings.HasPrefix(dir, opened.Root()+"/") || g.Name() != name {
				t.Errorf("%q, named %q, is at %q, outside of %s", name, g.Name(), dir, opened.Root())
			}
			return
		}
		if g.Name() == "/" {
			t.Errorf("%q passes for the root", name)
		}
		for _, mount := range mounts {
			if dir == mount || strings.HasPrefix(dir, mount+"/") {
				return
			}
		}
		t.Errorf("%q is at %q, outside of %v", name, dir, mounts)
	})
}

// FuzzState sees that only FROZEN and THAWED can be asked for, and that the
// words come back.
func FuzzState(f *testing.F) {
	for _, text := range []string{"FROZEN", "THAWED", "FREEZING", "frozen", " FROZEN\n", "FROZEN\x00", "FROZENX", "1", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := freezer.ParseState(text)
		switch {
		case err != nil && (!errors.Is(err, freezer.ErrState) || freezer.Errno(err) != syscall.EIO):
			t.Errorf("ParseState(%q): %v", text, err)
		case err == nil && s == freezer.Freezing:
			t.Errorf("ParseState(%q) = %v", text, s)
		case err == nil && strings.Trim(text, " \t\r\n\v\f\x00") != s.String():
			t.Errorf("ParseState(%q) = %v", text, s)
		}
		var back freezer.State
		if err := back.UnmarshalText([]byte(text)); (err == nil) != (back.String() == text) && text != "THAWED" {
			t.Errorf("UnmarshalText(%q) = %v, %v", text, back, err)
		}
		if err == nil {
			encoded, err := json.Marshal(s)
			if err != nil || json.Unmarshal(encoded, &back) != nil || back != s {
				t.Errorf("%v came back from %s as %v, %v", s, encoded, back, err)
			}
		}
	})
}
