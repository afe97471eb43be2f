package demo

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Interrupted is the error of a demonstration that a signal ended.
type Interrupted struct{ Signal unix.Signal }

func (e Interrupted) Error() string {
	return "the demonstration was ended by " + unix.SignalName(e.Signal)
}

// interruptible returns a context that ends with an Interrupted as its cause by
// a signal that would end the program. Those that are ignored, as nohup has it,
// stay ignored. The program has them back after stop.
func interruptible(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	caught := make(chan os.Signal, 1)
	// SIGPIPE: the reader may have had enough.
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE} {
		if !signal.Ignored(sig) {
			signal.Notify(caught, sig)
		}
	}
	go func() {
		select {
		case sig := <-caught:
			cancel(Interrupted{sig.(unix.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		cancel(nil)
	}
}
