package freezer_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func capability(t *testing.T, list []freezer.Capability, name string) freezer.Capability {
	t.Helper()
	for _, c := range list {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no %q in %+v", name, list)
	return freezer.Capability{}
}

func TestProbeSaysWhatThereIsAndWhatIsMissing(t *testing.T) {
	list := freezer.Probe()
	seen := map[string]bool{}
	for _, c := range list {
		if c.Name == "" || c.Detail == "" || !c.Have && c.Fix == "" || c.Have && c.Fix != "" || seen[c.Name] {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
	text, err := json.Marshal(list[0])
	must(t, err)
	for _, field := range []string{`"name":`, `"have":`, `"detail":`} {
		if !strings.Contains(string(text), field) {
			t.Errorf("no %s in %s", field, text)
		}
	}
}

func TestProbeKnowsTheTree(t *testing.T) {
	for _, backend := range freezertest.Backends {
		t.Run(backend, func(t *testing.T) {
			f := freezertest.Tree(t, backend)
			_, err := f.Create("a")
			must(t, err)
			list := freezer.Probe(freezer.WithRoot(f.Root()), freezer.WithBackend(backend))
			want := fmt.Sprintf("%s on %s (where it was asked to be), groups there: 1", f.Root(), backend)
			if c := capability(t, list, "groups"); !c.Have || c.Detail != want {
				t.Errorf("%+v", c)
			}
			if c := capability(t, list, backend); !c.Have || !strings.HasSuffix(c.Detail, f.Mount()) {
				t.Errorf("%+v", c)
			}
			if c := capability(t, list, "kill"); !c.Have {
				t.Errorf("%+v", c)
			}
			if c := capability(t, list, "threads"); c.Have != (backend == freezer.Cgroup1) {
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestProbeSaysWhyThereCanBeNoGroups(t *testing.T) {
	c := capability(t, freezer.Probe(freezer.WithRoot("/no/such/tree")), "groups")
	if c.Have || !strings.Contains(c.Detail, "/no/such/tree") {
		t.Errorf("%+v", c)
	}
}

// Other tests have dead mounts, too, so this one looks for them in a mount
// namespace of its own.
func TestMountsWhoseServerIsDeadAreCleaned(t *testing.T) {
	const private = "FREEZER_TEST_PRIVATE"
	if os.Getenv(private) == "" {
		if _, err := exec.LookPath("unshare"); err != nil || os.Geteuid() != 0 {
			t.Skip("needs root and unshare")
		}
		self, err := os.Executable()
		must(t, err)
		cmd := exec.Command("unshare", "-m", self, "-test.v", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), private+"=1")
		passes(t, cmd)
		return
	}
	conn, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	dir := t.TempDir()
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", conn, os.Geteuid(), os.Getegid())
	if err := unix.Mount("freezer", dir, "fuse.freezer", 0, opts); err != nil {
		unix.Close(conn)
		t.Skipf("no FUSE here: mount: %v", err)
	}
	unix.Close(conn) // the server is dead
	cleaned, err := freezer.CleanMounts()
	must(t, err)
	for _, point := range cleaned {
		if point == dir {
			return
		}
	}
	_ = unix.Unmount(dir, unix.MNT_DETACH)
	t.Errorf("cleaned: %q", cleaned)
}
