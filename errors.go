package freezer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// A kind is a sentinel error that also matches, by errors.Is, the errno that a
// file interface returns for it.
type kind struct {
	text  string
	errno syscall.Errno
}

func (k *kind) Error() string        { return k.text }
func (k *kind) Is(target error) bool { return target == k.errno }

// The kinds of error that this package returns, to be tested with errors.Is.
// Each also matches its errno: errors.Is(err, syscall.EBUSY).
var (
	ErrFreezing    error = &kind{"freezing is incomplete", syscall.EBUSY}             // a FreezingError says which tasks
	ErrThawed      error = &kind{"somebody thawed it meanwhile", syscall.ECANCELED}   // while Freeze waited
	ErrNotEmpty    error = &kind{"the group has tasks or children", syscall.EBUSY}    // Remove
	ErrNotExist    error = &kind{"no such group", syscall.ENOENT}                     // or it vanished meanwhile
	ErrExist       error = &kind{"the group exists already", syscall.EEXIST}          // Create
	ErrName        error = &kind{"not a name for a group", syscall.EINVAL}            // Group, Create
	ErrState       error = &kind{"not a state that can be asked for", syscall.EIO}    // ParseState
	ErrPID         error = &kind{"not a task that can be moved", syscall.EINVAL}      // zero, negative, too large, a kernel thread
	ErrNoTask      error = &kind{"no such task", syscall.ESRCH}                       // it ended, or never was
	ErrPermission  error = &kind{"not permitted", syscall.EPERM}                      // by the kernel, or by the owner of a file
	ErrSelf        error = &kind{"would freeze the hand that thaws", syscall.EDEADLK} // see Force
	ErrUnsupported error = &kind{"not supported", syscall.EOPNOTSUPP}                 // by this group's kind or this kernel
	ErrNoBackend   error = &kind{"no way to freeze on this host", syscall.ENODEV}     // Open
)

// An OpError says which operation on which group failed. It unwraps to one of
// the kinds above, or to the errno that the kernel gave.
type OpError struct {
	Op    string // freeze, thaw, create …
	Group string // the group's name, empty when there is none
	Err   error
}

func (e *OpError) Error() string {
	if e.Group == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Group + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// A FreezingError is what Freeze returns when its deadline passed, or its
// context ended, before each task was frozen. It matches ErrFreezing, EBUSY and
// the context's error.
type FreezingError struct {
	Blockers []Blocker // what kept the group from being FROZEN; empty when it had just become so
	Thawed   bool      // the group was put back as it was; otherwise it stays FREEZING
	Cause    error     // context.DeadlineExceeded or context.Canceled
}

func (e *FreezingError) Error() string {
	var b strings.Builder
	b.WriteString(ErrFreezing.Error())
	if errors.Is(e.Cause, context.Canceled) {
		b.WriteString(" (interrupted)")
	}
	for i, x := range e.Blockers {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Blockers)-i)
			break
		}
		fmt.Fprintf(&b, "; task %d (%s) %s", x.TID, x.Command, x.Reason)
	}
	if e.Thawed {
		b.WriteString("; put back as it was")
	} else {
		b.WriteString("; it stays FREEZING until it is thawed, frozen again, or these tasks are gone")
	}
	return b.String()
}

// Is matches ErrFreezing and EBUSY.
func (e *FreezingError) Is(target error) bool {
	return target == ErrFreezing || target == syscall.EBUSY
}

// Unwrap returns the context's error.
func (e *FreezingError) Unwrap() error { return e.Cause }

// Errno is the number that a file interface returns for an error of this
// package: 0 for nil, EIO for what has no number.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var k *kind
	var freezing *FreezingError
	var errno syscall.Errno
	switch {
	case errors.As(err, &freezing):
		return syscall.EBUSY
	case errors.As(err, &k):
		return k.errno
	case errors.As(err, &errno):
		return errno
	}
	return syscall.EIO
}

// opError wraps err, nil for nil. The errnos that the kernel gives for a
// group that is not there become ErrNotExist, and so on.
func opError(op, group string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		for _, known := range []error{ErrNotExist, ErrExist, ErrNoTask, ErrPermission, ErrUnsupported} {
			if errors.Is(known, errno) || known == ErrPermission && errno == syscall.EACCES {
				err = &errnoError{known, errno}
				break
			}
		}
		if errno == syscall.ENODEV { // a control file of a removed group
			err = ErrNotExist
		}
	}
	return &OpError{op, group, err}
}

// errnoError is a kind that the kernel reported with an errno of its own
// (EACCES for ErrPermission), which a file interface should pass on.
type errnoError struct {
	kind  error
	errno syscall.Errno
}

func (e *errnoError) Error() string   { return e.kind.Error() }
func (e *errnoError) Unwrap() []error { return []error{e.errno, e.kind} }
