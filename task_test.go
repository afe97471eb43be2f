package freezer_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

func TestPIDsThatCannotBe(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		dead := exec.Command("true")
		must(t, dead.Run())
		zombie := exec.Command("true")
		must(t, zombie.Start())
		freezertest.Eventually(t, "it is a zombie", func() bool {
			s, err := proc.ReadStat(zombie.Process.Pid)
			return err == nil && s.State == 'Z'
		})
		defer func() { _ = zombie.Wait() }()
		for _, test := range []struct {
			name string
			pid  int
			kind error
		}{
			{"zero", 0, freezer.ErrPID},
			{"negative", -1, freezer.ErrPID},
			{"the most negative", -1 << 31, freezer.ErrPID},
			{"too large", 1<<22 + 1, freezer.ErrPID},
			{"far too large", 1<<62 + 1, freezer.ErrPID},
			{"dead", dead.Process.Pid, freezer.ErrNoTask},
			{"a zombie", zombie.Process.Pid, freezer.ErrNoTask},
			{"kthreadd", 2, freezer.ErrPID},
		} {
			if s, err := proc.ReadStat(test.pid); test.pid == 2 && (err != nil || !s.KernelThread()) {
				continue // in a PID namespace
			}
			for what, add := range map[string]func(int) error{"Add": g.Add, "AddTask": g.AddTask, "AddTree": g.AddTree} {
				if err := add(test.pid); !errors.Is(err, test.kind) {
					t.Errorf("%s of what is %s: %v, want %v", what, test.name, err, test.kind)
				}
			}
		}
		if pids, err := g.Processes(); len(pids) > 0 || err != nil {
			t.Errorf("something is in the group: %v, %v", pids, err)
		}
	})
}

// A forkStorm is a shell whose children fork and wait for their own as fast as
// they can.
const forkStorm = `
storm() { while :; do (sleep 0.01; (:); sleep 0.01) & (:); wait; done; }
storm & storm & storm &
wait`

func TestNobodyEscapesWhenATreeThatForksIsAdded(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		for range 5 {
			storm := freezertest.Start(t, "sh", "-c", forkStorm)
			root := storm.Process.Pid
			self, err := proc.ReadStat(root)
			must(t, err)
			family := map[int]uint64{root: self.Start}
			freezertest.Eventually(t, "it forks", func() bool { return len(proc.Descendants(family)) > 5 })
			must(t, g.AddTree(root))
			must(t, g.Freeze(t.Context()))
			for _, s := range proc.Descendants(family) {
				if s.State != 'Z' && !g.Contains(s.ID) {
					t.Errorf("process %d (%s) has escaped", s.ID, s.Command)
				}
			}
			must(t, g.Kill(t.Context()))
			must(t, g.Thaw())
		}
	})
}

func TestADeadLeaderWithLivingThreadsCanBeMoved(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 to end its first thread with")
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid := freezertest.Start(t, "python3", "-c", `
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)`).Process.Pid
		freezertest.Eventually(t, "its first thread has ended", func() bool {
			s, err := proc.ReadStat(pid)
			return err == nil && s.State == 'Z' && s.Threads == 2
		})
		must(t, g.Add(pid))
		tids, err := g.Tasks()
		must(t, err)
		if !slices.ContainsFunc(tids, func(tid int) bool { return tid != pid }) {
			t.Errorf("tasks: %v, want the other thread of %d", tids, pid)
		}
		must(t, g.Freeze(t.Context()))
		must(t, g.Kill(t.Context()))
	})
}

func TestOneThreadOfManyIsRefusedWhereItCannotBeMoved(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup2)
	g, err := f.Create("g")
	must(t, err)
	w := freezertest.NewWorld(t)
	err = g.AddTask(w.(freezertest.ThreadWorld).Thread(w.Counter()))
	if !errors.Is(err, freezer.ErrUnsupported) || freezer.Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), "add the process") {
		t.Errorf("AddTask: %v", err)
	}
	if pids, err := g.Processes(); len(pids) > 0 || err != nil {
		t.Errorf("something was moved: %v, %v", pids, err)
	}
}

func TestATreeIsThreadedAsAWholeOrNotAtAll(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup2)
	ordinary, err := f.Create("ordinary")
	must(t, err)
	threaded, err := freezer.Open(freezer.WithRoot(f.Root()), freezer.WithThreads())
	must(t, err)
	if _, err := threaded.Create("threaded"); !errors.Is(err, freezer.ErrUnsupported) || !strings.Contains(err.Error(), "not threaded") {
		t.Errorf("Create: %v", err)
	}
	if g, err := threaded.Group("threaded"); err != nil || g.Exists() {
		t.Errorf("it is there all the same: %v", err)
	}
	must(t, ordinary.Add(freezertest.Sleeper(t))) // it is still valid
	must(t, ordinary.Kill(t.Context()))
	must(t, ordinary.Remove())

	_, err = threaded.Create("threaded")
	must(t, err)
	another, err := f.Create("another") // without the option
	must(t, err)
	w := freezertest.NewWorld(t)
	tid := w.(freezertest.ThreadWorld).Thread(w.Counter())
	must(t, another.AddTask(tid))
	if !another.Contains(tid) {
		t.Error("the thread is not in the group")
	}
}

func TestDescribe(t *testing.T) {
	cmd := freezertest.Start(t, "sleep", "1000")
	freezertest.Eventually(t, "it is called sleep", func() bool {
		p, ok := freezer.Describe(cmd.Process.Pid)
		return ok && p.Command == "sleep 1000"
	})
	p, _ := freezer.Describe(cmd.Process.Pid)
	if p.Parent != os.Getpid() || p.User != os.Getuid() || p.Threads != 1 {
		t.Errorf("%+v", p)
	}
	if _, ok := freezer.Describe(1 << 22); ok {
		t.Error("a process that cannot be is described")
	}
}

func TestInfoAndList(t *testing.T) {
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		before := time.Now()
		sub := below(t, g, "g/sub")
		must(t, sub.Add(freezertest.Sleeper(t)))
		must(t, g.Freeze(t.Context()))
		f, err := freezer.Open(freezer.WithBackend(g.Backend()), freezer.WithRoot(strings.TrimSuffix(g.Dir(), "/g")))
		must(t, err)
		list, err := f.List()
		must(t, err)
		if len(list) != 2 || list[0].Group != "g" || list[1].Group != "g/sub" {
			t.Fatalf("%+v", list)
		}
		if x := list[1]; x.Processes != 1 || x.Tasks != 1 || x.Self != freezer.Thawed || x.Parent != freezer.Freezing || x.Effective != freezer.Frozen {
			t.Errorf("%+v", x)
		}
		if x := list[1].Created; x == nil || x.Before(before.Add(-time.Second)) || x.After(time.Now().Add(time.Second)) {
			t.Errorf("created %v", x)
		}
	})
}
