package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/checkpoint"
)

// every makes an image again and again, until the group has no processes or a signal
// comes. An image that cannot be made now may be made later: only when the command
// line is wrong, or nothing can be frozen here, it ends.
func (c *checkpointCmd) every(s *session, g *freezer.Group) error {
	switch {
	case c.Track || c.Base != "" || c.Untrack:
		return &statusError{usage, errors.New("checkpoint: the images of --every are whole: they cannot go with --track, --base and --untrack")}
	case c.Output == "-" || c.Output == "":
		return &statusError{usage, errors.New("checkpoint: --every writes files, whose names begin with that of -o")}
	case checkpoint.Leave(c.Leave) != checkpoint.Running:
		return &statusError{usage, errors.New("checkpoint: with --every the group runs on: --leave cannot be " + c.Leave)}
	case c.Every < time.Second || c.Keep < 1:
		return &statusError{usage, errors.New("checkpoint: --every is a second at least, and --keep 1")}
	}
	series := checkpoint.Series{Path: c.Output, Keep: c.Keep}
	ready := s.notice()
	ctx := ready(0)
	if !runs(g) {
		return errors.New(g.Name() + " has no process to checkpoint")
	}
	look := time.NewTicker(min(c.Every, time.Second))
	defer look.Stop()
	next := time.Now()
	for {
		if !time.Now().Before(next) {
			path := series.At(time.Now())
			err := c.round(s, path, ctx.Done())
			if err == nil {
				err = series.Prune(path)
			}
			var own *statusError
			if errors.As(err, &own) && (own.status == usage || own.status == unavailable) {
				return err
			}
			if err != nil && own == nil { // else it was said
				say(err.Error())
			}
			for !next.After(time.Now()) {
				next = next.Add(c.Every)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if !runs(g) {
			return nil
		}
	}
}

// runs says whether a group has processes.
func runs(g *freezer.Group) bool {
	groups, err := g.Walk()
	if err != nil {
		return false
	}
	found := false
	for _, sub := range groups {
		pids, err := sub.Processes()
		sub.Close()
		found = found || err == nil && len(pids) > 0
	}
	return found
}

// round makes one image, and gives up when stop is closed. It is done by a process of
// its own, so that it has nothing to do with the next one, whatever becomes of it.
func (c *checkpointCmd) round(s *session, path string, stop <-chan struct{}) error {
	args := []string{"checkpoint", c.Group, "-o", path, "--snapshot", c.Snapshot}
	for flag, value := range map[string]string{"--compress": c.Compress, "--root": s.Root, "--backend": s.Backend} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error)
	go func() { done <- cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case <-stop:
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err = <-done
	}
	if exit, ok := err.(*exec.ExitError); ok && exit.Exited() {
		return &statusError{status: exit.ExitCode()}
	}
	return err
}
