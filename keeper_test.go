package freezer_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// withKeeper builds the client program, which is the keeper, and gives the test
// a runtime directory of its own. Whatever keeper is left at the end is killed.
func withKeeper(t *testing.T) (runtimeDir string) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command to build the keeper with")
	}
	bin, runtimeDir := t.TempDir(), t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "freezer"), "./cmd/freezer")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("FREEZER_RUNTIME_DIR", runtimeDir)
	t.Cleanup(func() {
		calm := 0 // one that was just forked shows a moment later
		freezertest.Eventually(t, "all keepers are gone", func() bool {
			keepers := keepersOf(runtimeDir)
			for _, pid := range keepers {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				calm = 0
			}
			calm++
			return calm > 5
		})
	})
	return runtimeDir
}

// keepersOf lists the keepers that meet in a runtime directory.
func keepersOf(runtimeDir string) (pids []int) {
	for _, pid := range proc.All() {
		cmdline, _ := os.ReadFile(proc.Path(pid, "cmdline"))
		environ, _ := os.ReadFile(proc.Path(pid, "environ"))
		if bytes.Contains(cmdline, []byte("\x00keeper\x00")) && bytes.Contains(environ, []byte("FREEZER_RUNTIME_DIR="+runtimeDir+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func eventuallyThawed(t *testing.T, g *freezer.Group) {
	t.Helper()
	freezertest.Eventually(t, "the lease ends", func() bool {
		s, err := g.State()
		must(t, err)
		return s == freezer.Thawed
	})
}

func TestLeaseEndsByItself(t *testing.T) {
	withKeeper(t)
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Add(freezertest.Sleeper(t)))
		must(t, g.Freeze(t.Context(), freezer.By("a"), freezer.For(50*time.Millisecond)))
		wantState(t, g, freezer.Frozen)
		eventuallyThawed(t, g)

		p := freezertest.Start(t, "sleep", "1000")
		must(t, g.Freeze(t.Context(), freezer.While(p.Process.Pid)))
		wantState(t, g, freezer.Frozen)
		must(t, p.Process.Kill())
		eventuallyThawed(t, g)

		must(t, g.Freeze(t.Context(), freezer.By("a"), freezer.For(10*time.Millisecond)))
		must(t, g.Freeze(t.Context(), freezer.By("b"), freezer.For(100*time.Millisecond)))
		freezertest.Eventually(t, "the shorter one ends", func() bool { return owners(t, g) == "b" || owners(t, g) == "" })
		eventuallyThawed(t, g)
		wantOwners(t, g, "")
	})
}

func TestLeaseThatIsOverHoldsNothing(t *testing.T) {
	withKeeper(t)
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		p := freezertest.Start(t, "sleep", "1000")
		must(t, g.Freeze(t.Context(), freezer.By("a"), freezer.While(p.Process.Pid)))
		must(t, g.Freeze(t.Context(), freezer.By("b"), freezer.For(time.Hour)))
		wantOwners(t, g, "a b")
		must(t, p.Process.Kill())
		freezertest.Eventually(t, "the hold of a dead process ends", func() bool { return owners(t, g) == "b" })
		if err := g.Freeze(t.Context(), freezer.By("b"), freezer.For(time.Nanosecond)); err != nil && !errors.Is(err, freezer.ErrThawed) {
			t.Fatal(err)
		}
		must(t, g.Freeze(t.Context(), freezer.By("c")))
		must(t, g.Thaw(freezer.HeldBy("c")))
		wantState(t, g, freezer.Thawed)
	})
}

func TestLeaseOfAHoldThatOthersShareLeavesTheGroupFrozen(t *testing.T) {
	withKeeper(t)
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		// Long enough for the other to come before it ends, on a busy machine too.
		must(t, g.Freeze(t.Context(), freezer.By("a"), freezer.For(500*time.Millisecond)))
		must(t, g.Freeze(t.Context(), freezer.By("b")))
		freezertest.Eventually(t, "the lease is taken off", func() bool {
			value := make([]byte, 64)
			_, err := syscall.Getxattr(g.Dir(), "user.freezer.hold.a", value)
			return err == syscall.ENODATA
		})
		wantOwners(t, g, "b")
		wantState(t, g, freezer.Frozen)
	})
}

func TestKilledKeepersAreReplacedAndLoseNoLease(t *testing.T) {
	runtimeDir := withKeeper(t)
	f := freezertest.Tree(t, freezertest.Backends[0])
	kills, leases := 40, 0
	if long, err := strconv.Atoi(os.Getenv("FREEZER_TEST_KILLS")); err == nil {
		kills = long
	}
	for i := range kills {
		g, err := f.Create(fmt.Sprint("g", i))
		must(t, err)
		err = g.Freeze(t.Context(), freezer.By("a"), freezer.For(time.Duration(rand.IntN(30))*time.Millisecond))
		if err != nil && !errors.Is(err, freezer.ErrThawed) { // it can be over already
			t.Fatal(err)
		}
		leases++
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // the random moment
		if keepers := keepersOf(runtimeDir); len(keepers) == 2 && standsBy(t, runtimeDir) {
			must(t, syscall.Kill(keepers[rand.IntN(2)], syscall.SIGKILL))
		}
	}
	for i := range leases {
		g, err := f.Group(fmt.Sprint("g", i))
		must(t, err)
		eventuallyThawed(t, g)
	}
}

// standsBy says whether a stand-in is there: one keeper may be killed then.
func standsBy(t *testing.T, runtimeDir string) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(runtimeDir, "keeper", "standby"))
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == syscall.EWOULDBLOCK
}

func TestLeaseIsRefusedWithoutARuntimeDirectory(t *testing.T) {
	withKeeper(t)
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		file := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(file, nil, 0o600))
		open := filepath.Join(t.TempDir(), "open")
		must(t, os.Mkdir(open, 0o777))
		must(t, os.Chmod(open, 0o777)) // anybody could tamper with it
		for _, dir := range []string{file, open, "/proc/nothing/here"} {
			t.Setenv("FREEZER_RUNTIME_DIR", dir)
			err := g.Freeze(t.Context(), freezer.For(time.Hour))
			if freezer.Errno(err) != syscall.EOPNOTSUPP {
				t.Errorf("%s: got %v, want ErrUnsupported", dir, err)
			}
			wantState(t, g, freezer.Thawed)
		}
	})
}

func TestWhatAnEarlierBootLeftKeepsNoLeaseFromEnding(t *testing.T) {
	runtimeDir := withKeeper(t)
	leases, keeper := filepath.Join(runtimeDir, "leases"), filepath.Join(runtimeDir, "keeper")
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, os.MkdirAll(leases, 0o700))
		must(t, os.MkdirAll(keeper, 0o700))
		must(t, os.WriteFile(filepath.Join(keeper, "pid"), []byte("1 1"), 0o600)) // another has that PID now
		must(t, os.WriteFile(filepath.Join(keeper, "standby"), []byte("\x00\xff"), 0o600))
		before := time.Now().Add(-time.Hour)
		for _, name := range []string{strings.ReplaceAll(g.Dir(), "/", "%2F") + "%2Fgone", "%2Fproc", "garbage", "\xff%zz", "%2Fetc%2Fpasswd"} {
			path := filepath.Join(leases, name)
			must(t, os.WriteFile(path, []byte("\x00\xff{"), 0o600))
			must(t, os.Chtimes(path, before, before))
		}
		must(t, g.Add(freezertest.Sleeper(t)))
		must(t, g.Freeze(t.Context(), freezer.For(time.Second)))
		eventuallyThawed(t, g)
		freezertest.Eventually(t, "what was left is gone", func() bool {
			entries, err := os.ReadDir(leases)
			must(t, err)
			return !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
				info, err := e.Info()
				return err == nil && time.Since(info.ModTime()) > time.Minute
			})
		})
	})
}

func TestHoldStressWorker(t *testing.T) {
	root := os.Getenv("FREEZER_TEST_STRESS_ROOT")
	if root == "" {
		t.Skip("started by TestRacingOwnersNeverUndoEachOther only")
	}
	owner := "owner" + strconv.Itoa(os.Getpid())
	f, err := freezer.Open(freezer.WithRoot(root))
	must(t, err)
	g, err := f.Group("g")
	must(t, err)
	duration, err := time.ParseDuration(os.Getenv("FREEZER_TEST_STRESS"))
	must(t, err)
	held := false
	for end := time.Now().Add(duration); time.Now().Before(end); {
		switch rand.IntN(4) {
		case 0:
			must(t, g.Freeze(t.Context(), freezer.By(owner)))
			held = true
		case 1:
			if err := g.Thaw(freezer.HeldBy(owner)); held && err != nil && freezer.Errno(err) != syscall.EBUSY {
				t.Fatal(err)
			}
			held = false
		default:
			if held {
				wantState(t, g, freezer.Frozen)
			}
		}
	}
	if held {
		fmt.Println("\nHELD", owner)
	}
}

func TestRacingOwnersNeverUndoEachOther(t *testing.T) {
	duration := "2s"
	if long := os.Getenv("FREEZER_TEST_STRESS"); long != "" {
		duration = long
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		must(t, g.Add(freezertest.Sleeper(t)))
		var workers [8]*exec.Cmd
		var outputs [8]bytes.Buffer
		for i := range workers {
			w := exec.Command(os.Args[0], "-test.run=^TestHoldStressWorker$", "-test.v")
			w.Env = append(os.Environ(), "FREEZER_TEST_STRESS_ROOT="+filepath.Dir(g.Dir()), "FREEZER_TEST_STRESS="+duration)
			w.Stdout, w.Stderr = &outputs[i], &outputs[i]
			must(t, w.Start())
			workers[i] = w
		}
		want := map[string]bool{}
		for i, w := range workers {
			if err := w.Wait(); err != nil {
				t.Errorf("worker: %v\n%s", err, outputs[i].String())
			}
			for line := range bytes.Lines(outputs[i].Bytes()) {
				if owner, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("HELD ")); ok {
					want[string(owner)] = true
				}
			}
		}
		holds, err := g.Holds()
		must(t, err)
		for _, h := range holds {
			if !want[h.Owner] || h.Overridden {
				t.Errorf("unexpected hold %+v", h)
			}
			delete(want, h.Owner)
		}
		if len(want) > 0 {
			t.Errorf("lost holds: %v", want)
		}
		if len(holds) == 0 {
			wantState(t, g, freezer.Thawed)
		} else {
			wantState(t, g, freezer.Frozen)
		}
	})
}

// A keeper that is killed leaves its PID behind, for anybody.
func TestThePIDOfAKeeperThatIsGoneMayBeFrozen(t *testing.T) {
	runtimeDir := t.TempDir()
	t.Setenv("FREEZER_RUNTIME_DIR", runtimeDir)
	must(t, os.Mkdir(filepath.Join(runtimeDir, "keeper"), 0o700))
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid := freezertest.Sleeper(t)
		must(t, g.Add(pid))
		stat, err := proc.ReadStat(pid)
		must(t, err)
		record := func(start uint64) {
			must(t, os.WriteFile(filepath.Join(runtimeDir, "keeper", "pid"), fmt.Appendf(nil, "%d %d", pid, start), 0o600))
		}
		record(stat.Start)
		wantErrSelf(t, "freezing the keeper", g.Freeze(t.Context()))
		record(stat.Start - 1)
		must(t, g.Freeze(t.Context()))
		must(t, g.Thaw())
	})
}
