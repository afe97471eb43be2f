// Package systemd finds and starts the unit in which systemd lets this project
// have groups, and has systemd move processes there where the kernel demands a
// right that only systemd has.
package systemd

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
)

const (
	unitName = "freezer.service"
	timeout  = 10 * time.Second
)

// A Unit is the service that is delegated to this project by systemd's system
// manager or by a user's own. It need not run yet.
type Unit struct {
	Dir    string // the directory of its cgroup, which exists while it runs
	slice  string
	socket string // of its manager
}

// Find returns the unit for a user. init is the directory of PID 1's cgroup:
// where systemd is PID 1 and manages the hierarchy, and nowhere else, that is
// init.scope, at the top of all units. ok is false where it is not, and where
// no manager runs for the user. Nothing but the kernel is asked.
func Find(init string, uid int) (u Unit, ok bool) {
	top, scope := filepath.Split(init)
	if scope != "init.scope" {
		return Unit{}, false
	}
	if uid == 0 {
		return Unit{top + "system.slice/" + unitName, "system.slice", "/run/systemd/private"}, true
	}
	id := strconv.Itoa(uid)
	manager := top + "user.slice/user-" + id + ".slice/user@" + id + ".service"
	u = Unit{manager + "/app.slice/" + unitName, "app.slice", "/run/user/" + id + "/systemd/private"}
	return u, unix.Access(manager, unix.F_OK) == nil
}

// IsUserManager says whether dir is the cgroup of a user's own systemd, to
// which everything below it belongs.
func IsUserManager(dir string) bool {
	name := filepath.Base(dir)
	return strings.HasPrefix(name, "user@") && strings.HasSuffix(name, ".service")
}

// Start starts the unit and returns when its cgroup is there. It is no error
// when it runs already, or when somebody else starts it just now. It takes some
// ten milliseconds, at most about ten seconds.
//
// systemd removes the empty cgroup of a unit in which no process ever was
// (seen with 252), so one sleeps there, in a group of its own, "init": the
// unit's own cgroup must have none, or no controllers could be switched on for
// the groups below. Should it be killed, what is in the groups lives on. The
// unit stays until somebody stops it, which kills what is in the groups.
//
// The error, a sentence, wraps no errno: that would be taken for the group's.
func (u Unit) Start() error {
	properties, err := u.properties()
	if err != nil {
		return err
	}
	c, err := dial(u.socket)
	if err != nil {
		return err
	}
	defer c.Close()

	err = c.call("StartTransientUnit", "ssa(sv)a(sa(sv))", func(e *encoder) {
		e.string(unitName)
		e.string("fail")
		e.properties(properties)
		e.array(8, func() {}) // no other units
	})
	if refused := (*replyError)(nil); errors.As(err, &refused) && refused.name == "org.freedesktop.systemd1.UnitExists" {
		if u.ready(timeout / 10) {
			return nil
		}
		// It is there without a cgroup: its process was killed when there was no other in it.
		err = c.call("RestartUnit", "ss", func(e *encoder) {
			e.string(unitName)
			e.string("replace")
		})
	}
	if err != nil {
		return fmt.Errorf("systemd does not start %s: %v", unitName, err)
	}
	if !u.ready(timeout) {
		return fmt.Errorf("systemd started %s, but no group appeared at %s: see what \"systemctl status %s\" says", unitName, u.Dir, unitName)
	}
	return nil
}

// properties says what the unit is; systemd.service(5) and
// systemd.resource-control(5) explain the names.
func (u Unit) properties() ([]property, error) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		return nil, err
	}
	settle := "mkdir -p init && echo 0 >init/cgroup.procs && exec '" + sleep + "' infinity"
	return []property{
		{"Description", "Groups of tasks that can be frozen"},
		{"Slice", u.slice},
		{"Delegate", true},
		{"WorkingDirectory", u.Dir},
		{"ExecStart", command{"/bin/sh", "-c", settle}},
		{"RemainAfterExit", true}, // the process is not what the unit is for:
		{"SuccessExitStatus", signals{unix.SIGKILL}},
		{"OOMPolicy", "continue"}, // a group that runs out of memory is not the others' end
		{"TasksMax", ^uint64(0)},
		{"IgnoreOnIsolate", true},
		{"CollectMode", "inactive-or-failed"},                            // so that it can always be started again
		{"TimeoutStopUSec", uint64(10 * time.Second / time.Microsecond)}, // frozen tasks hear no SIGTERM
	}, nil
}

// ready waits until the unit has its cgroup and its process sleeps.
func (u Unit) ready(within time.Duration) bool {
	for end, nap := time.Now().Add(within), time.Millisecond; ; nap = min(2*nap, 50*time.Millisecond) {
		procs, err := kernfs.ReadFile(u.Dir + "/init/cgroup.procs")
		if err == nil && len(procs) > 0 {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(nap)
	}
}

// Attach has systemd move a process into a group below the unit. For a user's
// processes it may do so from wherever they are, for instance from the scope
// of a login session, out of which the kernel lets the user move nothing.
func (u Unit) Attach(dir string, pid int) error {
	c, err := dial(u.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.call("AttachProcessesToUnit", "ssau", func(e *encoder) {
		e.string(unitName)
		e.string(strings.TrimPrefix(dir, u.Dir))
		e.array(4, func() { e.uint32(uint32(pid)) })
	})
}
