package freezer_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// exampleRoot is where the example's tree is.
var exampleRoot string

// skipExample leaves the example out where no groups can be made: an example
// cannot skip itself.
func skipExample() {
	f, err := freezer.Open()
	if err == nil {
		_, err = f.Group("/")
	}
	if err == nil && f.Backend() == freezer.Ptrace {
		err = errors.New("it is about cgroups")
	}
	if err == nil {
		above := filepath.Dir(f.Root())
		exampleRoot = fmt.Sprintf("%s/freezer-test-example-%d", above, os.Getpid())
		err = unix.Access(above, unix.W_OK)
	}
	if err != nil {
		_ = flag.Set("test.skip", "^Example$")
	}
}

func Example() {
	// Without options: the best freezer of this host, and the usual place.
	f, err := freezer.Open(freezer.WithRoot(exampleRoot))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Clean()

	sim, err := f.Create("sim")
	if err != nil {
		fmt.Println(err)
		return
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return
	}
	if err := sim.Add(cmd.Process.Pid); err != nil { // with all that it will fork
		fmt.Println(err)
		return
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = sim.Freeze(ctx)
	var late *freezer.FreezingError
	if errors.As(err, &late) { // it stays FREEZING, and here is why
		for _, b := range late.Blockers {
			fmt.Println(b.Command, b.Reason)
		}
	}
	fmt.Println(sim.State())

	fmt.Println(sim.Thaw())
	fmt.Println(sim.State())

	fmt.Println(sim.Kill(ctx))
	_ = cmd.Wait()
	fmt.Println(sim.Remove())
	// Output:
	// FROZEN <nil>
	// <nil>
	// THAWED <nil>
	// <nil>
	// <nil>
}
