// Package invisible thaws tasks so that they do not notice that they were
// frozen. Some system calls fail with EINTR when the kernel freezes a task that
// sleeps in them, and some then sleep too long. Here such a call starts again,
// and ends when it would have ended anyway.
//
//	s := invisible.Prepare(tids)               // before they are frozen
//	...                                        // freeze
//	err := s.Thaw(ctx, tids, group.Thaw)       // they run
//	err = s.Wait(ctx)                          // calls with a timeout have returned
//
// How it works. The tracer stops the frozen task by ptrace, finds the call's
// number and the result -EINTR in its registers, and makes the result -514, the
// kernel's own ERESTARTNOHAND: then the kernel starts the call again, or, when a
// signal with a handler came meanwhile, runs the handler and has the call fail
// with EINTR, just as without a freeze. Nothing else of the task is changed. In
// particular its timeout stays as it is, so it starts anew in full: the tracer
// stays attached, and at the time at which the call began plus its timeout it
// interrupts the call and makes it return what it returns when time is up. While
// it is attached it hides further freezes, too, whoever makes them.
//
// So a tracer that is lost, at whatever moment, leaves a task that runs, in a
// call that may end too late; no register and no memory is ever in a state that
// needs to be put back. (There is one exception, see resubmit.)
//
// The kernel itself writes into the program's memory what is left of the
// timeouts of select, pselect and ppoll. There, and only there, this package
// writes, too: what is left at the thaw, instead of what was left at the freeze.
//
// Not all can be hidden: docs/transparency.md.
package invisible
