//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// frozen makes sure that a subject's group is FROZEN, with a hold of an owner.
func (s *subject) frozen(t *testing.T, owner string) {
	t.Helper()
	freezertest.Eventually(t, "it is frozen again", func() bool {
		state, err := s.group.State()
		return err == nil && state == freezer.Frozen
	})
	if holds, err := s.group.Holds(); err != nil || len(holds) != 1 || holds[0].Owner != owner {
		t.Errorf("it has the holds %v, %v", holds, err)
	}
}

// A frozen group is checkpointed as it is, stays frozen, and runs none of its own
// code meanwhile.
func TestAFrozenGroupIsCheckpointed(t *testing.T) {
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		for _, state := range []string{"registers", "signals", "threads", "tree"} {
			t.Run(backend+"/"+state, func(t *testing.T) {
				s := startIn(t, backend, cSubject(t, state))
				if err := s.group.Freeze(context.Background(), freezer.By("admin")); err != nil {
					t.Fatal(err)
				}
				var image bytes.Buffer
				for range 2 {
					image.Reset()
					if _, err := Save(context.Background(), s.group, &image, SaveOptions{}); err != nil {
						t.Fatal(err)
					}
					s.frozen(t, "admin")
				}
				if err := s.group.Thaw(freezer.AllHolds()); err != nil {
					t.Fatal(err)
				}
				lives(t, s)
				reap(t, image.Bytes())
				goesOn(t, s, s.restore(t, image.Bytes()))
			})
		}
	}
}

// What runs in a group whose subgroup is frozen is stopped beside what is frozen.
func TestAGroupWithAFrozenSubgroupIsCheckpointed(t *testing.T) {
	s := start(t, cSubject(t, "registers"))
	below, err := s.f.Create("job/below")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "100")
	freezertest.Run(t, cmd)
	if err := below.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := below.Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	if _, err := Save(context.Background(), s.group, &image, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	for group, want := range map[*freezer.Group]freezer.State{s.group: freezer.Thawed, below: freezer.Frozen} {
		freezertest.Eventually(t, group.Name()+" is as it was", func() bool { state, err := group.State(); return err == nil && state == want })
	}
	lives(t, s)
	if _, err := Save(context.Background(), below, &image, SaveOptions{Leave: Killed}); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// A group that is frozen from above cannot be let run alone.
func TestAGroupThatIsFrozenFromAboveIsRefused(t *testing.T) {
	s := start(t, cSubject(t, "registers"))
	above, err := s.f.Group("/")
	if err == nil {
		err = above.Freeze(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{})
	if err == nil || !strings.Contains(err.Error(), "above it is freezing") {
		t.Errorf("Save says %v", err)
	}
	if err := above.Thaw(); err != nil {
		t.Fatal(err)
	}
	lives(t, s)
}

// Whoever checkpoints a frozen group is killed: it is frozen again, and unharmed.
func TestKillingACheckpointOfAFrozenGroupLeavesItFrozen(t *testing.T) {
	s := start(t, cSubject(t, "signals"))
	if err := s.group.Freeze(context.Background(), freezer.By("admin")); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	n := 1
	for ; ; n++ {
		err := saver(t, saverTask{Root: s.f.Root(), Image: image, Die: -n}).Run()
		s.frozen(t, "admin")
		wholeOrAbsent(t, image)
		if err == nil {
			break
		}
		if exit, ok := err.(*exec.ExitError); !ok || exit.Exited() {
			t.Fatalf("at call %d: %v", n, err)
		}
	}
	t.Logf("it makes %d calls", n-1)
	if err := s.group.Thaw(freezer.AllHolds()); err != nil {
		t.Fatal(err)
	}
	lives(t, s)
}

// Sleeps that were interrupted by freezes before are still known for what they are.
func TestSleepsOfAFrozenGroupAreKnown(t *testing.T) {
	cmd := cSubject(t, "sleeps")
	cmd.Args = append(cmd.Args, "interrupted")
	s := start(t, cmd)
	for range 2 {
		if err := s.group.Freeze(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := s.group.Thaw(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := s.group.Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	image := s.save(t, Killed)
	job := s.restore(t, image) // into a group that is frozen still
	freezertest.Eventually(t, "what is restored is frozen", func() bool {
		state, err := s.group.State()
		return err == nil && state == freezer.Frozen
	})
	if err := s.group.Thaw(); err != nil {
		t.Fatal(err)
	}
	goesOn(t, s, job)
}
