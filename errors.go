package freezer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// A kind is a sentinel error that also matches, by errors.Is, the errno that a
// file interface returns for it, and what that matches (fs.ErrNotExist …).
type kind struct {
	text  string
	errno syscall.Errno
}

func (k *kind) Error() string        { return k.text }
func (k *kind) Is(target error) bool { return target == k.errno || k.errno.Is(target) }

// The kinds of error that this package returns, to be tested with errors.Is.
// Each also matches its errno: errors.Is(err, syscall.EBUSY).
var (
	ErrFreezing    error = &kind{"freezing is incomplete", syscall.EBUSY}             // a FreezingError says which tasks
	ErrThawed      error = &kind{"somebody thawed it meanwhile", syscall.ECANCELED}   // while Freeze waited
	ErrHeld        error = &kind{"others hold it", syscall.EBUSY}                     // Thaw; a HeldError says who
	ErrNoHold      error = &kind{"no such hold", syscall.ENODATA}                     // Thaw, for an owner
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
	var own *errnoError
	var freezing *FreezingError
	var held *HeldError
	var errno syscall.Errno
	switch {
	case errors.As(err, &freezing), errors.As(err, &held):
		return syscall.EBUSY
	case errors.As(err, &own):
		return own.errno
	case errors.As(err, &k):
		return k.errno
	case errors.As(err, &errno):
		return errno
	}
	return syscall.EIO
}

// opError wraps err, nil for nil. An errno of the kernel's that no one has
// explained yet becomes the kind that it means here.
func opError(op, group string, err error) error {
	if err == nil {
		return nil
	}
	if inner, ok := err.(*OpError); ok && inner.Group == group {
		err = inner.Err // of a smaller operation that this one consists of
	}
	var k *kind
	var errno syscall.Errno
	if !errors.As(err, &k) && errors.As(err, &errno) {
		err = kindOf(errno, err)
	}
	return &OpError{op, group, err}
}

// kindOf returns the kind that an errno means, err where it means none.
func kindOf(errno syscall.Errno, err error) error {
	switch errno {
	case syscall.ENODEV: // a control file of a removed group
		return ErrNotExist
	case syscall.EACCES:
		return &errnoError{ErrPermission, errno}
	case syscall.EMFILE:
		return fmt.Errorf("%w: raise the limit of open files (ulimit -n)", errno)
	}
	for _, known := range []error{ErrNotExist, ErrExist, ErrNoTask, ErrPermission, ErrUnsupported} {
		if errors.Is(known, errno) {
			return known
		}
	}
	return err
}

// errnoError is a kind that the kernel reported with an errno of its own
// (EACCES for ErrPermission), which a file interface should pass on.
type errnoError struct {
	kind  error
	errno syscall.Errno
}

func (e *errnoError) Error() string   { return e.kind.Error() }
func (e *errnoError) Unwrap() []error { return []error{e.errno, e.kind} }
