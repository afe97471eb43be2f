// Transparency measures what tasks see of being frozen. A stage (subject/, in C)
// starts a process for each blocking call of Linux; they are frozen and thawed in
// each way there is, in each of several scenarios, and what a call then does is
// held against what it does when nothing is frozen. The result is a table in
// Markdown, a row a call:
//
//	go run ./transparency              all of it, in a minute or two
//	go run ./transparency -v epoll_wait semop
//
// It needs gcc, root, and what the ways to freeze need. A cell says "clean", or
// what was seen.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	verbose := flag.Bool("v", false, "say in which scenario what was seen")
	only := flag.String("ways", "", "measure only these ways, separated by commas")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer cancel()
	if err := measure(ctx, flag.Args(), *only, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "transparency:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, names []string, only string, verbose bool) error {
	prog, err := compile()
	if err != nil {
		return err
	}
	defer prog.remove()
	calls, err := prog.list(names)
	if err != nil {
		return err
	}
	var wanted []way
	for _, w := range ways {
		if only == "" || strings.Contains(","+only+",", ","+w.name+",") {
			wanted = append(wanted, w)
		}
	}
	results := prog.measure(ctx, calls, wanted, verbose)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Print(results.table(calls, wanted))
	return nil
}
