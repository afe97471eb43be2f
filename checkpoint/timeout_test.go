//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A task whose call is still minded, because of a checkpoint before or because it was
// restored, can be checkpointed.
func TestTasksThatAreMindedAreCheckpointedAgain(t *testing.T) {
	s := start(t, cSubject(t, "sleeps"))
	s.save(t, Running)
	s.save(t, Running)
	job := s.restore(t, s.save(t, Killed))
	var image bytes.Buffer
	stats, err := Save(context.Background(), s.group, &image, SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	goesOn(t, s, job)
	if err := stats.Settled(context.Background()); err != nil {
		t.Error(err)
	}
}

// A call that is interrupted by a checkpoint ends when it would have, or after what
// was left of its timeout; also when it had been interrupted before.
func TestTimeoutsGoOnWithWhatWasLeft(t *testing.T) {
	for _, test := range []struct {
		name            string
		before, restore bool
	}{{"in the job itself", false, false}, {"in what is restored", false, true}, {"interrupted before", true, true}} {
		t.Run(test.name, func(t *testing.T) {
			cmd, calls := cSubject(t, "sleeps"), 8
			if test.before {
				cmd.Args, calls = append(cmd.Args, "interrupted"), 6
			}
			s := start(t, cmd)
			if test.before {
				time.Sleep(500 * time.Millisecond)
				for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
					if err := s.cmd.Process.Signal(sig); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			time.Sleep(700 * time.Millisecond)
			var gone time.Duration // between the image and the restore
			if test.restore {
				var image bytes.Buffer
				begin := time.Now()
				stats, err := Save(context.Background(), s.group, &image, SaveOptions{Leave: Killed})
				if err != nil {
					t.Fatal(err)
				}
				_ = s.cmd.Wait()
				reap(t, image.Bytes())
				time.Sleep(300 * time.Millisecond)
				job := s.restore(t, image.Bytes())
				gone = time.Since(begin) - stats.Stopped
				goesOn(t, s, job)
			} else {
				s.save(t, Running)
				lives(t, s)
			}
			told := 0
			for line := range strings.Lines(s.said()) {
				var call int
				var from, to int64
				if n, _ := fmt.Sscanf(line, "call %d: from %d to %d", &call, &from, &to); n != 3 {
					continue
				}
				told++
				took := time.Duration(to-from)*time.Millisecond - gone
				// Only the kernel knows what was left of these at the first interruption.
				unknown := test.before && (call == 2 || call == 3)
				if took < 1900*time.Millisecond || took > 2300*time.Millisecond && !unknown || took > 2800*time.Millisecond {
					t.Errorf("call %d took %v, without the time in which there was no job", call, took)
				}
			}
			if told != calls {
				t.Errorf("%d of %d calls have told how long they took: %s", told, calls, s.said())
			}
		})
	}
}
