//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
)

// A shell that starts programs all the time is in vfork, where it cannot be
// stopped, now and then.
func TestAShellThatStartsProgramsAllTheTime(t *testing.T) {
	s := start(t, exec.Command("sh", "-c", "echo ready; while :; do /bin/true; done"))
	for range 100 {
		if _, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.alive(t, "after 100 checkpoints")
}
