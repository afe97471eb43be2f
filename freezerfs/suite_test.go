package freezerfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestSuite(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			freezertest.Suite(t, func(tb testing.TB) (freezertest.System, freezertest.World) {
				w := freezertest.NewWorld(tb)
				if backend == freezer.Ptrace {
					w = freezertest.WithoutDebuggers(tb, w)
				}
				return system{mount(tb, backend, freezerfs.Options{Grace: freezerfs.DefaultGrace})}, w
			})
		})
	}
}

// A system uses a mount as the programs of old did: by its files only.
type system struct{ *tree }

var _ freezertest.TaskMover = system{}

func (s system) Create(group string) error { return os.Mkdir(s.path(group), 0o755) }

func (s system) Remove(group string) error { return syscall.Rmdir(s.path(group)) }

func (s system) List() (names []string, err error) {
	err = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != s.dir {
			names = append(names, strings.TrimPrefix(path, s.dir+"/"))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it vanished meanwhile
		}
		return err
	})
	return names, err
}

func (s system) Add(group string, pid int) error {
	return s.write(strconv.Itoa(pid), group+"/cgroup.procs")
}

func (s system) AddTask(group string, tid int) error {
	return s.write(strconv.Itoa(tid), group+"/tasks")
}

func (s system) Processes(group string) ([]int, error) { return s.ids(group + "/cgroup.procs") }

func (s system) Tasks(group string) ([]int, error) { return s.ids(group + "/tasks") }

func (s system) ids(name string) (ids []int, err error) {
	text, err := os.ReadFile(s.path(name))
	for word := range strings.FieldsSeq(string(text)) {
		id, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, err
}

// Freeze writes FROZEN again as long as that is EBUSY.
func (s system) Freeze(group string) error {
	for start := time.Now(); ; {
		err := s.write("FROZEN", group+"/freezer.state")
		if !errors.Is(err, syscall.EBUSY) || time.Since(start) > freezertest.Patience {
			return err
		}
	}
}

func (s system) Thaw(group string) error { return s.write("THAWED", group+"/freezer.state") }

func (s system) States(group string) (states freezer.States, err error) {
	for name, state := range map[string]*freezer.State{
		"self_freezing": &states.Self, "parent_freezing": &states.Parent, "state": &states.Effective,
	} {
		text, err := os.ReadFile(s.path(group, "freezer."+name))
		if err != nil {
			return states, err
		}
		word := strings.TrimSuffix(string(text), "\n")
		if name == "state" {
			err = state.UnmarshalText([]byte(word))
		} else if word == "1" {
			*state = freezer.Freezing
		}
		if err != nil {
			return states, err
		}
	}
	return states, nil
}
