package freezer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestErrno(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want syscall.Errno
	}{
		{"nil", nil, 0},
		{"a kind", ErrNotExist, syscall.ENOENT},
		{"a kind with more to say", fmt.Errorf("%w: x", ErrPID), syscall.EINVAL},
		{"an operation", &OpError{"freeze", "g", ErrSelf}, syscall.EDEADLK},
		{"incomplete freezing", &OpError{"freeze", "g", &FreezingError{Cause: context.DeadlineExceeded}}, syscall.EBUSY},
		{"canceled freezing", &FreezingError{Cause: context.Canceled}, syscall.EBUSY},
		{"held", &HeldError{}, syscall.EBUSY},
		{"an errno", syscall.EROFS, syscall.EROFS},
		{"one of the os package", &fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE}, syscall.EMFILE},
		{"no number", errors.New("x"), syscall.EIO},
		{"the kernel's own for a kind", opError("add to", "g", syscall.EACCES), syscall.EACCES},
		{"a state that is not legal", ErrState, syscall.EIO},
		{"no backend", ErrNoBackend, syscall.ENODEV},
	} {
		if got := Errno(test.err); got != test.want {
			t.Errorf("%s: Errno is %v, want %v", test.name, got, test.want)
		}
	}
}

func TestTheKernelsErrnosBecomeKinds(t *testing.T) {
	for errno, kind := range map[syscall.Errno]error{
		syscall.ENOENT:     ErrNotExist,
		syscall.ENODEV:     ErrNotExist,
		syscall.EEXIST:     ErrExist,
		syscall.ESRCH:      ErrNoTask,
		syscall.EPERM:      ErrPermission,
		syscall.EACCES:     ErrPermission,
		syscall.EOPNOTSUPP: ErrUnsupported,
	} {
		err := opError("freeze", "g", errno)
		var op *OpError
		if !errors.Is(err, kind) || !errors.As(err, &op) || op.Op != "freeze" || op.Group != "g" {
			t.Errorf("%v becomes %#v, want %v", errno, err, kind)
		}
		if want := "freeze g: " + kind.Error(); err.Error() != want {
			t.Errorf("%v says %q, want %q", errno, err, want)
		}
	}
	if err := opError("freeze", "g", syscall.EROFS); !errors.Is(err, syscall.EROFS) {
		t.Errorf("EROFS becomes %v", err)
	}
	if err := opError("freeze", "g", nil); err != nil {
		t.Errorf("nil becomes %v", err)
	}
}

func TestKindsMatchWhatTheirErrnosMatch(t *testing.T) {
	for err, target := range map[error]error{
		ErrNotExist:   fs.ErrNotExist,
		ErrExist:      fs.ErrExist,
		ErrPermission: fs.ErrPermission,
		ErrNotEmpty:   syscall.EBUSY,
	} {
		if !errors.Is(&OpError{"x", "g", err}, target) || errors.Is(err, os.ErrClosed) {
			t.Errorf("%v does not match %v", err, target)
		}
	}
}

func TestWhatWasExplainedStaysExplained(t *testing.T) {
	err := opError("add to", "g", explainMove(7, syscall.EACCES))
	if !errors.Is(err, ErrPermission) || !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "cgroup.procs") {
		t.Errorf("%v", err)
	}
	if Errno(err) != syscall.EACCES {
		t.Errorf("Errno is %v", Errno(err))
	}
	err = opError("create", "g", fmt.Errorf("%w: not threaded (%w)", ErrUnsupported, syscall.EBUSY))
	if Errno(err) != syscall.EOPNOTSUPP || !strings.Contains(err.Error(), "not threaded") {
		t.Errorf("%v: %v", err, Errno(err))
	}
	if err := opError("add to", "g", explainMove(7, syscall.ESRCH)); err.Error() != "add to g: no such task: 7" {
		t.Errorf("%v", err)
	}
}

func TestMessagesOfIncompleteFreezing(t *testing.T) {
	task := Blocker{TID: 7, Command: "cat", Cause: Cause{Reason: "waits"}}
	for _, test := range []struct {
		err  FreezingError
		want string
	}{
		{FreezingError{Cause: context.DeadlineExceeded, Blockers: []Blocker{task}}, "freezing is incomplete; task 7 (cat) waits; it stays FREEZING until it is thawed, frozen again, or these tasks are gone"},
		{FreezingError{Cause: context.Canceled, Thawed: true}, "freezing is incomplete (interrupted); put back as it was"},
		{FreezingError{Cause: context.DeadlineExceeded, Thawed: true, Blockers: []Blocker{task, task, task, task, task}}, "freezing is incomplete; task 7 (cat) waits; task 7 (cat) waits; task 7 (cat) waits; and 2 more; put back as it was"},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}
