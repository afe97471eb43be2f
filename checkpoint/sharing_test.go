//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sharer is a subject whose shared memory outlives it.
type sharer struct {
	*subject
	files []string
	key   int
}

func startSharer(t *testing.T) *sharer {
	t.Helper()
	s := &sharer{subject: start(t, cSubject(t, "sharing"))}
	pid := strconv.Itoa(s.cmd.Process.Pid)
	s.files = []string{"/dev/shm/freezer-test-" + pid, "/dev/shm/sem.freezer-test-sem-" + pid}
	s.key = 0x46000000 | s.cmd.Process.Pid
	t.Cleanup(s.remove)
	return s
}

// remove removes the memory, as a start of the host does.
func (s *sharer) remove() {
	for _, path := range s.files {
		_ = os.Remove(path)
	}
	if id := s.segment(); id >= 0 {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	}
}

// segment is the ID of the memory that has a key, or -1.
func (s *sharer) segment() int {
	id, err := unix.SysvShmGet(s.key, 0, 0)
	if err != nil {
		return -1
	}
	return id
}

func TestSharedMemoryIsMadeAgainAfterAStartOfTheHost(t *testing.T) {
	s := startSharer(t)
	image := s.save(t, Killed)
	s.remove()
	s.restore(t, image)
	image = s.save(t, Running) // now of files that were made without a name
	if err := s.group.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	reap(t, image)
	s.remove()
	goesOn(t, s.subject, s.restore(t, image))
}

func TestSharedMemoryThatWasChangedIsRefused(t *testing.T) {
	s := startSharer(t)
	image := s.save(t, Killed)
	refused := func(want string) {
		t.Helper()
		_, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
		if tasks, err := s.group.Tasks(); err != nil || len(tasks) > 0 {
			t.Fatalf("%v are left, %v", tasks, err)
		}
	}
	ignored := func() {
		t.Helper()
		job, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{Files: FilesIgnore})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.group.Kill(context.Background()); err != nil {
			t.Fatal(err)
		}
		_, _, _ = job.Wait()
		reap(t, image)
	}
	f, err := os.OpenFile(s.files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, content := range []string{"x", "\x00"} { // changed, and back
		if _, err := f.WriteAt([]byte(content), 1<<19); err != nil {
			t.Fatal(err)
		}
		if content == "x" {
			refused("it was changed since")
			ignored()
		}
	}
	memory, err := unix.SysvShmAttach(s.segment(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	refused("others have it attached")
	memory[5]++
	if err := unix.SysvShmDetach(memory); err != nil {
		t.Fatal(err)
	}
	refused("it was changed since")
	// An ID that belongs to other memory, and a key.
	s.remove()
	id, err := unix.SysvShmGet(s.key, 100, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Fatal(err)
	}
	refused("belongs to other memory now")
	if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
		t.Fatal(err)
	}
	goesOn(t, s.subject, s.restore(t, image))
}

// An image cannot have a file made elsewhere than in memory.
func TestAFileInMemoryIsMadeNowhereElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skip("there is no other directory")
	}
	c := &Contents{Kind: contentsMemory, Path: path, Length: 1, Mode: 0o600}
	if _, err := c.open(); err == nil || !strings.Contains(err.Error(), "not in memory") {
		t.Error(err)
	}
}

func TestSharedMemoryThatOutsidersHaveIsRefused(t *testing.T) {
	s := startSharer(t)
	memory, err := unix.SysvShmAttach(s.segment(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	hindered(t, s.subject, "which is not in the group, has it, too")
	if err := unix.SysvShmDetach(memory); err != nil {
		t.Fatal(err)
	}
	// A file in memory is then their affair, as any file is.
	f, err := os.Open(s.files[0])
	if err != nil {
		t.Fatal(err)
	}
	job, err := ReadJob(bytes.NewReader(s.save(t, Running)))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range job.Mapped {
		if m.Path == s.files[0] && m.Contents != nil {
			t.Error("it is in the image")
		}
	}
	lives(t, s.subject)
}

// What a killed restore leaves of System V memory is no obstacle to the next one,
// and files in memory it does not leave.
func TestAKilledRestoreIsNotInTheWayOfTheNext(t *testing.T) {
	s := startSharer(t)
	saved := s.save(t, Killed)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	s.remove()
	step := 11
	if os.Getenv("FREEZER_LONG") != "" {
		step = 1
	}
	for n := 1; ; n += step {
		if err := saver(t, saverTask{Root: s.f.Root(), Image: image, Die: -n, Restore: true}).Run(); err == nil {
			break
		}
		if _, err := os.Stat(s.files[0]); err == nil {
			t.Logf("at call %d the memory has its name, which it gets last", n)
			break
		}
		reap(t, saved)
	}
	_ = s.group.Kill(context.Background())
	reap(t, saved)
	goesOn(t, s.subject, s.restore(t, saved))
}
