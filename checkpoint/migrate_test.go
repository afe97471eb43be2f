//go:build amd64

package checkpoint

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// A line connects the two sides of a move.
type line struct {
	toReader, fromReader *io.PipeReader
	toWriter, fromWriter *io.PipeWriter
}

func newLine() (l line) {
	l.toReader, l.toWriter = io.Pipe()
	l.fromReader, l.fromWriter = io.Pipe()
	return l
}

// A job is moved while it changes its memory, here to a namespace of its own on the
// same host.
func TestAJobIsMoved(t *testing.T) {
	s := start(t, cSubject(t, "rounds"))
	s.tell(t, "round 1")
	l := newLine()
	there := make(chan *Restored, 1)
	failed := make(chan error, 1)
	go func() {
		job, err := Receive(context.Background(), l.toReader, l.fromWriter, s.f, RestoreOptions{Group: "there", NewPIDs: true})
		there <- job
		failed <- err
	}()
	m, err := Send(context.Background(), s.group, l.toWriter, l.fromReader)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rounds, %d bytes, stopped for %v", m.Rounds, m.Bytes, m.Stopped)
	job := <-there
	if err := <-failed; err != nil || m.PID != job.PID {
		t.Fatalf("it runs as %d, the other side says %d, %v", m.PID, job.PID, err)
	}
	t.Cleanup(func() {
		if g, err := s.f.Group("there"); err == nil {
			_ = g.Kill(context.Background())
		}
		_, _, _ = job.Wait()
	})
	_ = s.cmd.Wait() // it was killed here
	if err := unix.Kill(job.PID, unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	freezertest.Eventually(t, "round 2", func() bool { return strings.Contains(s.said(), "round 2\n") })
	goesOn(t, s, job)
}

// When the other side refuses the job, or is lost, it goes on here; when it is lost in
// the moment in which it may have begun to run it, it is frozen.
func TestAJobThatIsNotMovedIsNotLost(t *testing.T) {
	type side func(l line, f *freezer.Freezer)
	hear := func(l line) bool { // takes all images
		r := bufio.NewReader(l.toReader)
		for {
			what, err := r.ReadByte()
			if err != nil {
				return false
			}
			f, err := receiveImage(r)
			if err != nil {
				return false
			}
			f.Close()
			if what == sendLast {
				return true
			}
			_, _ = io.WriteString(l.fromWriter, "here\n")
		}
	}
	for name, c := range map[string]struct {
		other  side
		want   string
		frozen bool
	}{
		"its PIDs are taken": {func(l line, f *freezer.Freezer) {
			_, _ = Receive(context.Background(), l.toReader, l.fromWriter, f, RestoreOptions{Group: "there"})
		}, "is taken", false},
		"it is lost at once": {func(l line, _ *freezer.Freezer) {
			_ = l.toReader.Close()
			_ = l.fromWriter.Close()
		}, "closed pipe", false},
		"it is lost at last": {func(l line, _ *freezer.Freezer) {
			if hear(l) {
				_ = l.fromWriter.Close()
			}
		}, "the job is frozen here", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, cSubject(t, "registers"))
			l := newLine()
			go c.other(l, s.f)
			_, err := Send(context.Background(), s.group, l.toWriter, l.fromReader)
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrLost) != c.frozen {
				t.Errorf("it was moved, or the error is %v", err)
			}
			if c.frozen {
				if state, err := s.group.State(); err != nil || state != freezer.Frozen {
					t.Errorf("it is %v, %v", state, err)
				}
				if err := s.group.Thaw(); err != nil {
					t.Fatal(err)
				}
			}
			if Tracked(s.group) != "" {
				t.Error("a tracker is left")
			}
			lives(t, s)
		})
	}
}

// What is received is not believed.
func TestWhatIsReceivedIsChecked(t *testing.T) {
	f := freezertest.Tree(t, freezer.Cgroup2)
	for _, text := range []string{"", "x", "i", "ifrez", "lfrez" + strings.Repeat("\xff", 100)} {
		var out bytes.Buffer
		if _, err := Receive(context.Background(), strings.NewReader(text), &out, f, RestoreOptions{}); !errors.Is(err, ErrImage) || !strings.HasPrefix(out.String(), "failed ") {
			t.Errorf("%q: %v, and the other side is told %q", text, err, out.String())
		}
	}
}
