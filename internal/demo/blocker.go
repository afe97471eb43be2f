package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/cgfreezer/freezer"
)

// blocker is the scene with a task that cannot be frozen, and the three things
// that end that.
func (s *stage) blocker(ctx context.Context) error {
	s.title("3. A task that cannot be frozen")
	if !s.has("cat", "sleep", "/dev/fuse") {
		return nil
	}
	fs, err := s.silentFS()
	if err != nil {
		s.skip("%v", err)
		return nil
	}
	b := &blocking{stage: s, fs: fs}
	s.say("cat reads a file of a FUSE file system that does not answer; sleep is in the group, too.")
	if err := b.begin(ctx); err != nil || b.froze {
		return err
	}
	for _, way := range []func(context.Context) error{b.cancel, b.retry, b.vanish} {
		if err := way(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) silentFS() (*silentFS, error) {
	fs, err := newSilentFS()
	if err == nil {
		s.open = append(s.open, fs)
	}
	return fs, err
}

// blocking is the task that blocks, in a group with one that does not.
type blocking struct {
	*stage
	fs    *silentFS
	cat   *exec.Cmd
	read  bytes.Buffer // what cat read, once it has ended
	froze bool         // this kernel can freeze cat as it waits
}

// giveUp is after what time freezing is called incomplete here.
const giveUp = 100 * time.Millisecond

// begin meets the blocker for the first time.
func (b *blocking) begin(ctx context.Context) error {
	if err := b.start(exec.Command("sleep", "1000")); err != nil {
		return err
	}
	if err := b.wait(ctx); err != nil {
		return err
	}
	if err := b.tryFreeze(ctx); err != nil || b.froze {
		return err
	}
	return b.why(ctx)
}

// wait starts a cat that waits for the file system.
func (b *blocking) wait(ctx context.Context) error {
	b.read.Reset()
	b.cat = exec.Command("cat", "/proc/self/fd/3/"+silentFile)
	b.cat.ExtraFiles = []*os.File{b.fs.mount}
	b.cat.Stdout = &b.read
	if err := b.start(b.cat); err != nil {
		return err
	}
	if !until(ctx, patience, b.fs.asked) {
		return broken(ctx, "cat does not ask the file system")
	}
	return nil
}

// tryFreeze freezes the group, which should be impossible.
func (b *blocking) tryFreeze(ctx context.Context) error {
	took, err := freeze(ctx, b.scene, giveUp)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	command := fmt.Sprintf("freezer freeze %s --timeout %v", b.scene.Name(), giveUp)
	if err == nil {
		b.froze = true
		b.does(command, "FROZEN after "+ms(took))
		b.saw("blocker froze", "This kernel freezes a task that waits for FUSE, too: there is nothing to show.")
		return nil
	}
	b.does(command, fmt.Sprintf("%s after %s", errnoName(err), ms(took)))
	state, stateErr := b.state()
	b.check("blocker busy", errors.Is(err, syscall.EBUSY) && state == freezer.Freezing, "Freezing is incomplete: EBUSY, and the state is FREEZING.")
	return stateErr
}

// state reads the state of the group, and says so.
func (b *blocking) state() (freezer.State, error) {
	state, err := b.scene.State()
	if err == nil {
		b.does("freezer state "+b.scene.Name(), state.String())
	}
	return state, err
}

func (b *blocking) why(ctx context.Context) (err error) {
	var blockers []freezer.Blocker
	// sleep may be late, too, where there is much to do.
	until(ctx, patience, func() bool {
		blockers, err = b.scene.Blockers()
		return err != nil || len(blockers) == 1
	})
	if err != nil {
		return err
	}
	b.does("freezer why "+b.scene.Name(), "")
	for _, x := range blockers {
		b.adds(fmt.Sprintf("task %d (%s) %s; to release it: %s", x.TID, x.Command, x.Reason, x.Release))
	}
	only := len(blockers) == 1 && blockers[0].TID == b.cat.Process.Pid
	b.check("blocker named", only, "cat is named as what blocks, and cat alone: sleep is frozen.")
	return nil
}

// cancel is the first way out: THAWED is written.
func (b *blocking) cancel(context.Context) error {
	b.say("Way out 1: the freezing is cancelled.")
	if err := b.thaw(b.scene); err != nil {
		return err
	}
	state, err := b.state()
	b.check("way thawed", state == freezer.Thawed && b.fs.asked(), "The group is THAWED; cat waits as before.")
	return err
}

// retry is the second: FROZEN is written again, with success.
func (b *blocking) retry(ctx context.Context) error {
	b.say("Way out 2: it is tried again, until it succeeds.")
	if err := b.tryFreeze(ctx); err != nil {
		return err
	}
	b.adds("(now the file system answers)")
	b.fs.answer()
	took, err := freeze(ctx, b.scene, patience)
	if err != nil {
		return err
	}
	b.does("freezer freeze "+b.scene.Name(), "FROZEN after "+ms(took))
	state, err := b.state()
	if err != nil {
		return err
	}
	b.check("way retried", state == freezer.Frozen, "The group is FROZEN.")
	if err := b.thaw(b.scene); err != nil {
		return err
	}
	ended := b.ends(ctx, b.cat)
	b.terminal(b.read.String())
	b.check("blocker answered", ended && b.cat.ProcessState.Success() && b.read.String() == silentContent, "cat went on and read the file.")
	return nil
}

// ends waits for a process that is about to end.
func (b *blocking) ends(ctx context.Context, cmd *exec.Cmd) bool {
	if !until(ctx, patience, func() bool { return !alive(cmd.Process.Pid) }) {
		return false
	}
	_ = cmd.Wait()
	return true
}

// vanish is the third: the tasks that blocked disappear from the group.
func (b *blocking) vanish(ctx context.Context) (err error) {
	b.say("Way out 3: the task that blocks disappears. Another cat waits for another such file system.")
	if b.fs, err = b.silentFS(); err != nil {
		return err
	}
	if err := b.wait(ctx); err != nil {
		return err
	}
	if err := b.tryFreeze(ctx); err != nil {
		return err
	}
	pid := b.cat.Process.Pid
	if err := b.signal(pid, syscall.SIGKILL); err != nil {
		return err
	}
	until(ctx, patience, func() bool {
		state, err := b.scene.State()
		return err != nil || state == freezer.Frozen
	})
	state, err := b.state()
	if err != nil {
		return err
	}
	b.check("way vanished", state == freezer.Frozen, "The group is FROZEN, without anybody asking again.")
	if b.scene.Contains(pid) && alive(pid) {
		b.saw("blocker kept", "On %s the killed task was frozen before it could die: it dies when it is thawed, or moved out.", b.scene.Backend())
		b.does(fmt.Sprintf("freezer add %s %d", b.stage.group.Name(), pid), "")
		if err := b.stage.group.Add(pid); err != nil {
			return err
		}
	}
	b.check("blocker gone", b.ends(ctx, b.cat), "cat is gone from it.")
	state, err = b.scene.State()
	rest, listErr := b.scene.Processes()
	b.check("way vanished, rest frozen", state == freezer.Frozen && len(rest) == 1, "sleep is still there, and FROZEN.")
	return errors.Join(err, listErr, b.thaw(b.scene))
}
