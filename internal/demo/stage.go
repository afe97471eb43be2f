package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// A stage is where scenes are played, one after the other. Its group holds the
// groups and processes of all scenes, so that removing it removes everything.
type stage struct {
	*Report
	freezer *freezer.Freezer
	group   *freezer.Group
	lock    *os.File
	newTree bool // the tree was not there before,
	newWarm bool // or at least the package's hidden groups were not in it

	scene   *freezer.Group // the group of the scene that is played
	started []*exec.Cmd
	open    []io.Closer
}

// newStage makes the stage, or says why there can be none here.
func newStage(f *freezer.Freezer, r *Report) (*stage, error) {
	root, err := f.Group("/")
	if err != nil {
		return nil, err
	}
	s := &stage{Report: r, freezer: f, newTree: !root.Exists(), newWarm: !hasHidden(root.Dir())}
	if s.group, s.lock, err = claim(f); err != nil {
		return nil, errors.Join(fmt.Errorf("no group can be made in %s: %w", f.Root(), err), s.cleanTree())
	}
	return s, nil
}

// hasHidden says whether a directory has directories that are no groups.
func hasHidden(dir string) bool {
	entries, _ := os.ReadDir(dir)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.IsDir() && e.Name()[0] == '.' })
}

// play plays one scene, in a group with its name.
func (s *stage) play(ctx context.Context, name string, scene func(*stage, context.Context) error) (err error) {
	if s.scene, err = s.freezer.Create(s.group.Name() + "/" + name); err != nil {
		return err
	}
	return errors.Join(scene(s, ctx), s.clear())
}

// has says whether the scene has what it needs: programs by their names, devices
// by their paths. What is missing it reports.
func (s *stage) has(needs ...string) bool {
	for _, need := range needs {
		if need[0] == '/' {
			if err := unix.Access(need, unix.R_OK|unix.W_OK); err != nil {
				s.skip("%s cannot be used: %v", need, err)
				return false
			}
		} else if _, err := exec.LookPath(need); err != nil {
			s.skip("%s is not installed", need)
			return false
		}
	}
	return true
}

// start starts a program in the scene's group.
func (s *stage) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ^C is not for it
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return err
	}
	s.started = append(s.started, cmd)
	return s.scene.Add(cmd.Process.Pid)
}

// program starts a program on a terminal.
func (s *stage) program(name string, args ...string) (*terminal, error) {
	t, err := openTerminal(name, args...)
	if err != nil {
		return nil, err
	}
	s.open = append(s.open, t)
	return t, t.run(s.start)
}

// below makes a group in the scene's group and moves a process into it.
func (s *stage) below(name string, pid int) (*freezer.Group, error) {
	g, err := s.freezer.Create(s.scene.Name() + "/" + name)
	if err != nil {
		return nil, err
	}
	return g, g.Add(pid)
}

// clear ends what the scene started, whether it came to its end or not.
func (s *stage) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, c := range s.open {
		_ = c.Close()
	}
	for _, cmd := range s.started {
		_ = cmd.Process.Kill() // in case it never got into the group
	}
	if err := s.scene.RemoveAll(ctx); err != nil {
		return err
	}
	for _, cmd := range s.started {
		_ = cmd.Wait()
	}
	s.hangUp()
	s.open, s.started = nil, nil
	return nil
}

// remove removes the stage, and what the package made for itself because of it.
func (s *stage) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if s.newWarm {
		err = s.freezer.Clean() // while our group is there, so that the tree stays
	}
	err = errors.Join(err, s.group.RemoveAll(ctx))
	_ = s.lock.Close()
	return errors.Join(err, s.cleanTree())
}

// cleanTree removes the tree itself, when it was made for the demonstration.
func (s *stage) cleanTree() error {
	if !s.newTree {
		return nil
	}
	return s.freezer.Clean()
}
