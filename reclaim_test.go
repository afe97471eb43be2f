package freezer_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// swap adds a swap file until the test ends.
func swap(t *testing.T, size int64) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("swap needs root")
	}
	file := filepath.Join(t.TempDir(), "swap")
	for _, command := range [][]string{
		{"dd", "if=/dev/zero", "of=" + file, "bs=1M", "count=" + strconv.FormatInt(size>>20, 10)},
		{"chmod", "600", file}, {"mkswap", file}, {"swapon", file},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no swap here: %v: %s", err, out)
		}
	}
	t.Cleanup(func() { must(t, exec.Command("swapoff", file).Run()) })
}

// rememberer is a program that fills size bytes with numbers, and says for each
// line that it reads whether they are all still there.
func rememberer(t *testing.T, size int64) (pid int, ask func() string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to hold memory with")
	}
	cmd := exec.Command(python, "-c", `
import array, sys
n = int(sys.argv[1]) // 8
a = array.array("Q", [0]) * n
for i in range(0, n, 512): a[i] = i * 2654435761
print("ready", flush=True)
for line in sys.stdin:
    print("intact" if all(a[i] == i * 2654435761 for i in range(0, n, 512)) else "damaged", flush=True)
`, strconv.FormatInt(size, 10))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	freezertest.Run(t, cmd)
	lines := bufio.NewReader(out)
	read := func() string {
		line, err := lines.ReadString('\n')
		must(t, err)
		return strings.TrimSpace(line)
	}
	if got := read(); got != "ready" {
		t.Fatal(got)
	}
	return cmd.Process.Pid, func() string {
		_, err := io.WriteString(in, "\n")
		must(t, err)
		return read()
	}
}

func TestFrozenGroupGivesItsMemoryBackAndGetsItAgain(t *testing.T) {
	size := int64(64 << 20)
	if mib, err := strconv.ParseInt(os.Getenv("FREEZER_TEST_RECLAIM_MIB"), 10, 64); err == nil {
		size = mib << 20
	}
	swap(t, size+size/4)
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, ask := rememberer(t, size)
		must(t, g.Add(pid))
		if _, _, err := g.Reclaim(t.Context(), 0); !errors.Is(err, freezer.ErrThawed) {
			t.Fatalf("got %v, want ErrThawed", err)
		}
		must(t, g.Freeze(t.Context()))
		before, after, err := g.Reclaim(t.Context(), 0)
		must(t, err)
		t.Logf("%d MiB private before, %d after", before.Private>>20, after.Private>>20)
		if before.Private < size || after.Private-after.Locked > (before.Private-before.Locked)/20 {
			t.Errorf("before %+v, after %+v: less than 95 %% went", before, after)
		}
		came, err := g.Prefetch(t.Context())
		must(t, err)
		back, err := g.Memory()
		must(t, err)
		if came < size*9/10 || back.Private < size*9/10 {
			t.Errorf("%d bytes came back, now %+v", came, back)
		}
		wantState(t, g, freezer.Frozen)
		if _, after, err = g.Reclaim(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		must(t, g.Thaw())
		if got := ask(); got != "intact" {
			t.Error(got)
		}
	})
}

func TestReclaimOfAPartTakesAboutThatMuch(t *testing.T) {
	const size = 32 << 20
	swap(t, 2*size)
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, ask := rememberer(t, size)
		must(t, g.Add(pid))
		must(t, g.Freeze(t.Context()))
		before, after, err := g.Reclaim(t.Context(), size/4)
		must(t, err)
		if went := before.Private - after.Private; went < size/8 || went > size/2 {
			t.Errorf("%d bytes went, want about %d", went, size/4)
		}
		must(t, g.Thaw())
		if got := ask(); got != "intact" {
			t.Error(got)
		}
	})
}

func TestReclaimByTheMemoryController(t *testing.T) {
	const size = 32 << 20
	swap(t, 2*size)
	var fs unix.Statfs_t
	const mount = "/sys/fs/cgroup/memory"
	if unix.Statfs(mount, &fs) != nil || fs.Type != unix.CGROUP_SUPER_MAGIC {
		t.Skip("no cgroup1 memory controller at " + mount)
	}
	eachBackend(t, func(t *testing.T, g *freezer.Group) {
		pid, ask := rememberer(t, size)
		must(t, g.Add(pid))
		dir := filepath.Join(mount, fmt.Sprintf("freezer-test-%d", os.Getpid()))
		must(t, os.Mkdir(dir, 0o755))
		t.Cleanup(func() {
			_ = os.WriteFile(mount+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0)
			must(t, os.Remove(dir))
		})
		// What it has stays charged where it was; swapped out and in again it is here.
		must(t, os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0))
		must(t, g.Freeze(t.Context()))
		before, after, err := g.Reclaim(t.Context(), 0)
		must(t, err)
		if after.Private-after.Locked > (before.Private-before.Locked)/20 {
			t.Errorf("before %+v, after %+v: less than 95 %% went", before, after)
		}
		must(t, g.Thaw())
		if got := ask(); got != "intact" {
			t.Error(got)
		}
	})
}
