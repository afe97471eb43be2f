package freezer

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait is how long a change of holds waits for another one. Nobody can be
// kept from thawing by somebody who sits on the lock. Without it two who meet now
// and then lose a hold, or see one too many; so it is longer where each look
// at the state is an errand to the tracer, and only the user can have the lock.
func (g *Group) lockWait() time.Duration {
	if g.backend.name == Ptrace {
		return 2 * time.Second
	}
	return 100 * time.Millisecond
}

// lock keeps others from changing the holds and the self state of the group for
// the few microseconds until unlock. It is never kept while waiting for FROZEN.
func (g *Group) lock() (unlock func()) {
	g.changing.Lock() // a lock of the kernel's belongs to the descriptor, which the handle's users share
	flock := func(how int) error {
		return g.cg.Locked(func(fd int) error { return unix.Flock(fd, how) })
	}
	nap := 20 * time.Microsecond
	for start := time.Now(); ; nap = min(2*nap, 5*time.Millisecond) {
		err := flock(unix.LOCK_EX | unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(start) > g.lockWait() {
			break
		}
		sleep(nap)
	}
	return func() {
		_ = flock(unix.LOCK_UN)
		g.changing.Unlock()
	}
}
