//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cgfreezer/freezer/freezertest"
)

// A logger appends a number to its log each time that there is a file of that name,
// up to 5. It has another file open that it only reads.
func logger(t *testing.T) *subject {
	return start(t, exec.Command("sh", "-c", `echo old >seen; exec 3>>log 4<seen; echo ready
		for n in 1 2 3 4 5; do until [ -e go$n ]; do sleep 0.01; done; echo $n >&3; done`))
}

func (s *subject) path(name string) string { return filepath.Join(s.dir, name) }

// log has a logger write numbers, and returns what is in its log then.
func (s *subject) log(t *testing.T, numbers ...int) string {
	t.Helper()
	for _, n := range numbers {
		if err := os.WriteFile(s.path(fmt.Sprint("go", n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var text []byte
	freezertest.Eventually(t, "it has written", func() bool {
		text, _ = os.ReadFile(s.path("log"))
		return bytes.HasSuffix(text, fmt.Appendln(nil, numbers[len(numbers)-1]))
	})
	return strings.ReplaceAll(string(text), "\n", "")
}

func TestWhatBecomesOfFilesThatWereOpen(t *testing.T) {
	for _, c := range []struct {
		policy  FilePolicy
		short   bool // the log was emptied
		refused string
		cut     bool
		log     string
	}{
		{FilesCheck, false, "", false, "123345"}, // the job appends to what it wrote after the checkpoint
		{FilesRollback, false, "", true, "12345"},
		{FilesIgnore, false, "", false, "123345"},
		{FilesCheck, true, "has become shorter", false, ""},
		{FilesRollback, true, "has become shorter", false, ""},
		{FilesIgnore, true, "", false, "345"},
	} {
		t.Run(fmt.Sprint(c.policy, c.short), func(t *testing.T) {
			s := logger(t)
			s.log(t, 1, 2)
			image := s.save(t, Running)
			s.log(t, 3)
			_ = s.group.Kill(context.Background())
			_ = s.cmd.Wait()
			reap(t, image)
			_ = os.Remove(s.path("go3"))
			for name, text := range map[string]string{"seen": "old\nnew\n", "log": ""} {
				if name == "log" && !c.short {
					continue
				}
				if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			job, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{Files: c.policy})
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("Restore says %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = s.group.Kill(context.Background())
				_, _, _ = job.Wait()
			})
			var cuts []Cut
			if c.cut {
				cuts = []Cut{{s.path("log"), 6, 4}}
			}
			if !slices.Equal(job.Cuts, cuts) {
				t.Errorf("it says that it cut %v", job.Cuts)
			}
			if got := s.log(t, 3, 4, 5); got != c.log {
				t.Errorf("the log is %q", got)
			}
			if seen, _ := os.ReadFile(s.path("seen")); string(seen) != "old\nnew\n" {
				t.Errorf("what it only reads is %q", seen)
			}
			ends(t, s, job)
		})
	}
}

// A file that was cut back has another time; the same image can be restored again.
func TestFilesAreCutBackMoreThanOnce(t *testing.T) {
	s := logger(t)
	s.log(t, 1, 2)
	image := s.save(t, Killed)
	for range 2 {
		job, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{Files: FilesRollback})
		if err != nil {
			t.Fatal(err)
		}
		s.log(t, 3)
		_ = os.Remove(s.path("go3"))
		_ = s.group.Kill(context.Background())
		_, _, _ = job.Wait()
		reap(t, image)
	}
	// Nothing was appended since, but it is not what it was.
	if err := os.WriteFile(s.path("log"), []byte("1\n3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{Files: FilesRollback}); err == nil || !strings.Contains(err.Error(), "was changed since") {
		t.Error(err)
	}
}
