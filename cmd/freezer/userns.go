package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// mayChoosePIDs says whether this program may make processes with certain PIDs.
func mayChoosePIDs() bool {
	caps, _ := strconv.ParseUint(proc.Status(os.Getpid(), "CapEff"), 16, 64)
	return caps>>unix.CAP_CHECKPOINT_RESTORE&1 == 1 || caps>>unix.CAP_SYS_ADMIN&1 == 1
}

// restoreAsUser runs this command line once more, in a user namespace in which its
// user may choose PIDs, for a job in a PID namespace of its own; and ends as that
// does. It returns only with an error.
func restoreAsUser() error {
	args := slices.Clone(os.Args[1:])
	if !slices.Contains(args, "--new-pidns") {
		args = slices.Insert(args, 1, "--new-pidns")
		say("the job gets a user and a PID namespace of its own: only root, or who has CAP_CHECKPOINT_RESTORE, may choose PIDs on this host")
	}
	uid, gid := os.Getuid(), os.Getgid()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_CHECKPOINT_RESTORE, unix.CAP_SYS_PTRACE, unix.CAP_SETPCAP, unix.CAP_SYS_CHROOT},
	}
	got := make(chan os.Signal, 64)
	signal.Notify(got, passed...)
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("restore: to choose PIDs be root, have CAP_CHECKPOINT_RESTORE, or be allowed to make user namespaces (user.max_user_namespaces): %w", err)
		}
		return err
	}
	go func() {
		for sig := range got {
			if !fromKey(sig) { // which it gets, too
				_ = cmd.Process.Signal(sig)
			}
		}
	}()
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return err
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		dieBy(ws.Signal())
	}
	os.Exit(cmd.ProcessState.ExitCode())
	return nil
}

// fromKey says whether a signal is one that the terminal sends to all of its
// foreground group.
func fromKey(sig os.Signal) bool {
	return sig == syscall.SIGINT || sig == syscall.SIGQUIT || sig == syscall.SIGWINCH
}
