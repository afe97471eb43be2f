//go:build amd64

package checkpoint

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// hindered makes sure that something is in the way of a subject's checkpoint.
func hindered(t *testing.T, s *subject, want string) {
	t.Helper()
	obstacles, err := Check(s.group)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range obstacles {
		if o.Hinders() && strings.Contains(o.String(), want) {
			return
		}
	}
	t.Errorf("%q is not named: %v", want, obstacles)
}

// What the job shares with others would not be shared any more.
func TestFilesThatOutsidersHaveAreRefused(t *testing.T) {
	s := start(t, cSubject(t, "nameless"))
	const want = "which is not in the group, has it, too"
	for _, fd := range fdsOf(s.cmd.Process.Pid) {
		path := proc.Path(s.cmd.Process.Pid, "fd/"+strconv.Itoa(fd))
		if link, _ := os.Readlink(path); !strings.HasPrefix(link, memfdPrefix+"a name") {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		hindered(t, s, want)
		m, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ, unix.MAP_SHARED)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		hindered(t, s, want)
		_ = unix.Munmap(m)
		s.save(t, Running)
		lives(t, s)
		return
	}
	t.Error("there is no memfd")
}
