package freezerfs_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

// threadsEnv makes the test binary a process of so many threads that sleep until
// its input ends.
const threadsEnv = "FREEZERFS_TEST_THREADS"

func manyThreads(n int) {
	debug.SetMaxThreads(2*n + 100)
	started := make(chan int)
	for range n - 1 {
		go func() {
			runtime.LockOSThread()
			started <- 1
			_ = syscall.Nanosleep(&syscall.Timespec{Sec: 1000}, nil)
		}()
	}
	for range n - 1 {
		<-started
	}
	fmt.Println("started")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// threads starts a process that has at least n threads.
func threads(t testing.TB, n int) int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), threadsEnv+"="+strconv.Itoa(n))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	freezertest.Run(t, cmd)
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Skipf("no process of %d threads: %v", n, err)
	}
	return cmd.Process.Pid
}

func numbersIn(t testing.TB, text string) (ids []int) {
	t.Helper()
	for line := range strings.Lines(text) {
		id, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func TestTenThousandTasksAreListedInOrderAndAtOneMoment(t *testing.T) {
	const n = 10_000
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "b")
		pid := threads(t, n)
		tr.put(fmt.Sprint(pid), "a/cgroup.procs")
		tr.says(fmt.Sprint(pid), "a/cgroup.procs")
		whole := tr.read("a/tasks")
		ids := numbersIn(t, whole)
		if len(ids) < n || !slices.IsSorted(ids) || len(slices.Compact(ids)) != len(ids) {
			t.Fatalf("%d tasks, sorted %v", len(ids), slices.IsSorted(ids))
		}
		// In pieces, while they leave: what was begun is read to its end.
		f := tr.open("a/tasks")
		first := make([]byte, 1000)
		if _, err := io.ReadFull(f, first); err != nil {
			t.Fatal(err)
		}
		tr.put(fmt.Sprint(pid), "b/cgroup.procs")
		rest, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(first) + string(rest); len(numbersIn(t, got)) < n {
			t.Errorf("in pieces: %d tasks", len(numbersIn(t, got)))
		}
		tr2 := tr.read("a/tasks")
		if tr2 != "" {
			t.Errorf("a has still %d tasks", len(numbersIn(t, tr2)))
		}
		tr.put("FROZEN", "b/freezer.state")
		tr.says("FROZEN", "b/freezer.state")
	})
}

func TestNumbersThatAreNoTask(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		dead := exec.Command("true")
		if err := dead.Run(); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"a/tasks", "a/cgroup.procs"} {
			for text, errno := range map[string]syscall.Errno{
				"-1": syscall.EINVAL, "x": syscall.EINVAL, "\n": syscall.EINVAL, "1 2": syscall.EINVAL, "1\n2\n": syscall.EINVAL, "0x": syscall.EINVAL,
				"99999999999999999999": syscall.EINVAL, "2147483647": syscall.EINVAL,
				fmt.Sprint(dead.Process.Pid): syscall.ESRCH,
			} {
				tr.refuses(text, file, errno)
			}
			if got := tr.read(file); got != "" {
				t.Errorf("%s: %q", file, got)
			}
		}
		pid := fmt.Sprint(freezertest.Sleeper(t))
		for _, text := range []string{pid, pid + "\n", " " + pid + " \n"} {
			tr.put(text, "a/tasks")
			tr.says(pid, "a/tasks")
			tr.put(text, "tasks")
		}
	})
}

func TestZeroIsTheWriter(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		for _, file := range []string{"tasks", "cgroup.procs"} {
			ok, out := tr.may(user{uint32(os.Geteuid()), uint32(os.Getegid()), nil}, `echo 0 > $m/a/`+file+`; read pid < $m/a/`+file+`; test $pid = $$ && echo 0 > $m/`+file)
			if !ok {
				t.Errorf("%s: %s", file, out)
			}
			freezertest.Eventually(t, "it has left", func() bool { return tr.read("a/tasks") == "" })
		}
	})
}

func TestTheRootTakesTasksBackOut(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		tr.put("FROZEN", "a/freezer.state")
		pid := fmt.Sprint(freezertest.Sleeper(t))
		tr.put(pid, "a/tasks")
		tr.becomes("FROZEN", "a/freezer.state")
		tr.put(pid, "tasks")
		tr.says(pid, "tasks")
		if got := tr.read("a/tasks"); got != "" {
			t.Errorf("a has %q", got)
		}
		tr.put(pid, "a/cgroup.procs")
		tr.put(pid, "cgroup.procs")
		tr.says(pid, "cgroup.procs")
	})
}

func TestThreadsAreMovedOneByOneWhereTheTreeIsThreaded(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup2, freezer.WithThreads())
	tr := (&tree{TB: t, f: f, order: order{Root: f.Root(), Backend: freezer.Cgroup2, Threads: true}}).again()
	tr.mkdir("a", "b")
	pid := threads(t, 5)
	tr.put(fmt.Sprint(pid), "a/cgroup.procs")
	all := numbersIn(t, tr.read("a/tasks"))
	one := fmt.Sprint(all[len(all)-1])
	tr.put(one, "b/tasks")
	tr.says(one, "b/tasks")
	tr.says(fmt.Sprint(pid), "b/cgroup.procs")
	if left := numbersIn(t, tr.read("a/tasks")); slices.Contains(left, all[len(all)-1]) || !slices.Contains(left, pid) {
		t.Errorf("a has %v, had %v", left, all)
	}
	tr.put("FROZEN", "b/freezer.state")
	tr.says("FROZEN", "b/freezer.state")
	tr.put("THAWED", "b/freezer.state")
}

func TestOneThreadOfManyIsEOPNOTSUPPWhereTheTreeIsNotThreaded(t *testing.T) {
	tr := mount(t, freezer.Cgroup2, freezerfs.Options{})
	tr.mkdir("a")
	pid := fmt.Sprint(threads(t, 5))
	tr.refuses(pid, "a/tasks", syscall.EOPNOTSUPP)
	tr.put(pid, "a/cgroup.procs")
	tr.says(pid, "a/cgroup.procs")
}
