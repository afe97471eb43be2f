package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/demo"
)

func init() {
	commands.Plugins = append(commands.Plugins, &struct {
		Demo demoCmd `cmd:"" help:"Show what freezing is, on processes of its own."`
	}{})
}

type demoCmd struct{}

// Help is what help says besides.
func (demoCmd) Help() string {
	return `It plays the session of the specification: a shell in a shell and a program in gdb, stopped by
signals and then frozen; and a task that cannot be frozen, with the three ways out. It says what it
sees, and what it skips and why. All that it makes is removed, also when it is interrupted.

It fails when something is not as the specification says.`
}

// Run plays the demonstration.
func (demoCmd) Run(g *globals) error {
	report, err := demo.Run(context.Background(), demo.Options{
		Root: g.Root, Backend: g.Backend, Out: os.Stdout, Colour: demo.Colour(os.Stdout),
	})
	var ended demo.Interrupted
	switch {
	case errors.As(err, &ended):
		endBy(ended.Signal, err)
	case err == nil && !report.Good():
		return errors.New("not everything is as the specification says")
	}
	return err
}

// endBy ends the program as the signal would have, so that a shell learns that
// its script is to end, too.
func endBy(sig unix.Signal, err error) {
	if sig != unix.SIGPIPE {
		fmt.Fprintf(os.Stderr, "freezerd: %v\n", err)
	}
	switch sig {
	case unix.SIGINT, unix.SIGTERM, unix.SIGHUP:
		signal.Reset(sig)
		_ = unix.Kill(os.Getpid(), sig)
		time.Sleep(time.Second) // it arrives before that
	}
	os.Exit(128 + int(sig))
}
