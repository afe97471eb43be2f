//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
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

func TestANamedPipeThatOutsidersHaveIsRefused(t *testing.T) {
	s := start(t, cSubject(t, "pipes"))
	f, err := os.OpenFile(filepath.Join(s.dir, "fifo"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	hindered(t, s, "it goes outside of the group: "+f.Name())
	f.Close()
	image := s.save(t, Killed)
	if f, err = os.OpenFile(filepath.Join(s.dir, "fifo"), os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("foreign"); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "others have put 7 bytes into it") {
		t.Error(err)
	}
	f.Close()
	goesOn(t, s, s.restore(t, image))
}

// Only who reads from a pipe sees what is in it.
func TestANamedPipeThatNobodyReadsIsRefused(t *testing.T) {
	s := start(t, exec.Command("/bin/sh", "-c", "mkfifo fifo; exec 3<>fifo 4>fifo; echo x >&4; exec 3>&-; echo ready; exec sleep 1000"))
	_, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{})
	if err == nil || !strings.Contains(err.Error(), "nobody in the group has it open to read from it") {
		t.Error(err)
	}
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
