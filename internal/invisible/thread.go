package invisible

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f locked to a thread. When f returns false the thread ends, so
// that the kernel lets go of all that it traces: only then, because the kernel
// also kills the children that it started with a parent-death signal. The
// process's first thread cannot end; it is kept busy until another one is found.
func onThread(f func() bool) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			if f() {
				runtime.UnlockOSThread()
			}
			return
		}
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			if f() {
				runtime.UnlockOSThread()
			}
		}()
		<-started
		runtime.UnlockOSThread()
	}()
}
