package tracer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// fresh finds a place below a new directory, not made yet.
func fresh(t *testing.T) *Hierarchy {
	t.Helper()
	t.Setenv("FREEZER_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	h, err := Find("")
	if err != nil {
		t.Skip(err)
	}
	return h
}

func TestAPlaceThatOthersCouldWriteIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, h *Hierarchy) error{
		"the runtime directory is open to all": func(_ *testing.T, h *Hierarchy) error { return os.Chmod(filepath.Dir(h.mount), 0o777) },
		"the place is open to all":             func(_ *testing.T, h *Hierarchy) error { return os.Chmod(h.mount, 0o777) },
		"the records are open to a group":      func(_ *testing.T, h *Hierarchy) error { return os.Chmod(filepath.Join(h.mount, recordsName), 0o770) },
		"the place is another's": func(t *testing.T, h *Hierarchy) error {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a directory away")
			}
			return os.Chown(h.mount, 12345, 12345)
		},
		"the place is a link": func(_ *testing.T, h *Hierarchy) error {
			return errors.Join(os.Rename(h.mount, h.mount+"x"), os.Symlink(h.mount+"x", h.mount))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := fresh(t)
			if err := h.Make(); err != nil {
				t.Fatal(err)
			}
			if err := spoil(t, h); err != nil {
				t.Fatal(err)
			}
			if err := h.Make(); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "FREEZER_RUNTIME_DIR") {
				t.Errorf("got %v", err)
			}
			if _, err := h.start(); !errors.Is(err, unix.EPERM) {
				t.Errorf("a tracer was started: %v", err)
			}
		})
	}
}

func TestAPlaceThatCannotBeMadeIsAnError(t *testing.T) {
	h := fresh(t)
	file := filepath.Dir(h.mount)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Make(); err == nil {
		t.Error("no error")
	}
	if dir, err := h.Dir(os.Getpid()); err != nil || dir != h.mount {
		t.Errorf("this process is in %q, %v", dir, err)
	}
}

func TestWhatIsLeftFromAnEarlierBootIsRemoved(t *testing.T) {
	h := fresh(t)
	old := filepath.Join(filepath.Dir(h.mount), "ptrace-01234567-4026531836")
	if err := os.MkdirAll(filepath.Join(old, recordsName), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestARecordOfAnEarlierProcessDoesNotCount(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	s, _ := proc.ReadStat(pid)
	id, _ := h.identity("t/a")
	if err := h.setRecord(pid, record{s.Start - 1, id, "t/a"}); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) > 0 {
		t.Errorf("%v, %v", pids, err)
	}
	freeze(t, g)
	if taskStates(pid) == "t" {
		t.Error("it is held")
	}
}

func TestARecordForAnEarlierGroupDoesNotCount(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	for range 20 {
		add(t, g, pid)
		if err := os.RemoveAll(g.dir.Path()); err != nil { // Hierarchy.Remove would refuse it
			t.Fatal(err)
		}
		g = group(t, h, "t/a") // with the same inode number, perhaps
		if pids, err := g.Processes(); err != nil || len(pids) > 0 {
			t.Errorf("%v, %v", pids, err)
		}
	}
}

func TestGarbageAmongTheRecordsIsIgnored(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	for name, text := range map[string]string{
		"x": "y", "-1": "1 2 t/a", "99999999999999999999": "1 2 t/a", "1": "", "7": "a b t/a", "8": "1 2 ../../etc",
	} {
		_ = os.Symlink(text, h.recordPath(name))
	}
	if err := os.WriteFile(h.recordPath("12"), []byte("1 2 t/a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(h.recordPath("13"), 0o700); err != nil {
		t.Fatal(err)
	}
	add(t, g, pid)
	freeze(t, g)
	if pids, err := g.Processes(); err != nil || len(pids) != 1 || pids[0] != pid {
		t.Errorf("%v, %v", pids, err)
	}
}

func TestAGroupWithTasksIsNotRemoved(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	add(t, g, pid)
	if err := h.Remove(g.dir.Path()); err != unix.EBUSY {
		t.Errorf("got %v", err)
	}
	if err := h.Remove(h.dir("t")); err != unix.EBUSY {
		t.Errorf("its parent: got %v", err)
	}
	if err := h.MoveProcess(h.mount, pid); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(g.dir.Path()); err != nil {
		t.Errorf("without it: %v", err)
	}
	if _, err := g.Freezing(); err != unix.ENODEV && err != unix.ENOENT {
		t.Errorf("its handle says %v", err)
	}
}

// The name of a group whose directory was removed behind our back must not stay
// frozen, and nor must its tasks.
func TestAGroupRemovedByOthersThaws(t *testing.T) {
	h := place(t)
	g := group(t, h, "t/a")
	pid := start(t, "sleep", "1000").Process.Pid
	add(t, g, pid)
	freeze(t, g)
	if err := os.RemoveAll(g.dir.Path()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { return taskStates(pid) == "S" })
	again := h.Open(kernfs.NewDir(group(t, h, "t/a").dir.Path()))
	if on, err := again.Freezing(); on || err != nil {
		t.Errorf("freezing: %v, %v", on, err)
	}
}
