//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// A job goes from a checkpoint through a pipe into a restore on the same host.
func TestAJobIsRestoredFromItsCheckpointThroughAPipe(t *testing.T) {
	for _, state := range []string{"registers", "tree", "memory"} {
		t.Run(state, func(t *testing.T) {
			s := start(t, cSubject(t, state))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			saved := make(chan error, 1)
			go func() {
				var copied bytes.Buffer
				_, err := Save(context.Background(), s.group, io.MultiWriter(w, &copied), SaveOptions{Leave: Killed})
				_ = s.cmd.Wait() // as the one who started it would, and as init would wait for orphans
				reap(t, copied.Bytes())
				w.Close()
				saved <- err
			}()
			job, err := Restore(context.Background(), r, s.f, RestoreOptions{})
			if err := <-saved; err != nil {
				t.Fatal(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = s.group.Kill(context.Background())
				_, _, _ = job.Wait()
			})
			goesOn(t, s, job)
		})
	}
}

// What the PIDs are taken by for good is said before the stream is read.
func TestAStreamWhosePIDsAreTakenByOthersIsNotRead(t *testing.T) {
	s := start(t, cSubject(t, "registers"))
	image := s.save(t, Running)
	job, err := ReadJob(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	job.Processes[0].Command = "other"
	var changed bytes.Buffer
	w := &writer{w: &changed}
	if err := w.begin(job); err != nil {
		t.Fatal(err)
	}
	r, p := io.Pipe()
	go func() { _, _ = p.Write(changed.Bytes()) }() // and no end
	_, err = Restore(context.Background(), r, s.f, RestoreOptions{})
	p.Close()
	if err == nil || !strings.Contains(err.Error(), "is taken: by subject") {
		t.Error(err)
	}
	lives(t, s)
}

// What comes through a pipe is looked at while it is put aside: else it might have no
// end.
func TestADamagedStreamIsNotPutAside(t *testing.T) {
	s := start(t, cSubject(t, "registers"))
	image := s.save(t, Running)
	r, p := io.Pipe()
	go func() {
		_, _ = p.Write(image)
		for err := error(nil); err == nil; {
			_, err = p.Write(make([]byte, 1<<16))
		}
	}()
	_, err := Restore(context.Background(), r, s.f, RestoreOptions{})
	r.Close()
	if !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), "something follows its end") {
		t.Error(err)
	}
	lives(t, s)
}
