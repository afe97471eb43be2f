package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// A machine is a real systemd as PID 1 of namespaces of its own (PIDs, mounts,
// cgroups, network, names), on this host's files, which it cannot write. Its
// groups are below one of the test's tree. It has no units but these.
var units = map[string]string{
	// The parts of the test run one after the other; then the machine ends.
	"probe.service": `
		[Unit]
		DefaultDependencies=no
		Requires=dbus.socket user@65534.service
		After=dbus.socket user@65534.service
		SuccessAction=exit-force
		FailureAction=exit-force
		[Service]
		Type=oneshot
		StandardOutput=append:/run/freezer-test/log
		StandardError=append:/run/freezer-test/log
		ExecStart=/run/freezer-test/run root
		ExecStart=systemd-run --scope --quiet --unit=session-1 --slice=user-65534.slice setpriv --reuid=65534 --regid=65534 --clear-groups /run/freezer-test/run user
		ExecStart=systemd-run --scope --quiet --unit=session-2 --slice=user-4711.slice setpriv --reuid=4711 --regid=4711 --clear-groups /run/freezer-test/run stranger
		ExecStopPost=-systemctl kill --signal=KILL user@65534.service
	`,
	"dbus.socket": `
		[Unit]
		DefaultDependencies=no
		[Socket]
		ListenStream=/run/dbus/system_bus_socket
	`,
	"dbus.service": `
		[Unit]
		DefaultDependencies=no
		[Service]
		ExecStart=dbus-daemon --system --address=systemd: --nofork --nopidfile
	`,
	"user@65534.service": `
		[Unit]
		DefaultDependencies=no
		[Service]
		Type=notify
		User=65534
		Slice=user-65534.slice
		Delegate=yes
		RuntimeDirectory=user/65534
		RuntimeDirectoryMode=0700
		Environment=XDG_RUNTIME_DIR=/run/user/65534 HOME=/
		Environment=SYSTEMD_UNIT_PATH=/run/freezer-test/units:/run/user/65534/systemd/transient SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/none
		ExecStart=/run/freezer-test/systemd --user
	`,
	// What others need without saying so.
	"default.target":  "[Unit]\nDefaultDependencies=no\n",
	"basic.target":    "[Unit]\nDefaultDependencies=no\n",
	"sysinit.target":  "[Unit]\nDefaultDependencies=no\n",
	"shutdown.target": "[Unit]\nDefaultDependencies=no\n",
}

// run runs this test again, as another part of it.
const run = `#!/bin/sh
export FREEZER_TEST_PART=$1
exec /run/freezer-test/probe -test.v -test.run='^TestARealSystemdDelegatesAUnit$' -test.timeout=20s
`

const (
	partEnv = "FREEZER_TEST_PART"
	initEnv = "FREEZER_TEST_INIT" // the directory that the machine is set up in

	notStarted = "not started:"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(initEnv); dir != "" {
		err := becomeInit(dir)
		fmt.Fprintln(os.Stderr, notStarted, err)
		os.Exit(1)
	}
	freezertest.Main(m)
}

// boot runs a machine until its units have done their work, and returns what they wrote.
func boot(t *testing.T) (log string) {
	t.Helper()
	program := needs(t)
	tree := freezertest.Tree(t, freezer.Cgroup2)
	group, err := tree.Create("machine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeBelow(t, group) })
	cgroup, err := os.Open(group.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	shared := t.TempDir() // the machine's /run/freezer-test
	prepare(t, shared, program)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The thread that starts it must live as long, or it dies before (Pdeathsig).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), initEnv+"="+shared)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		UseCgroupFD: true,
		CgroupFD:    int(cgroup.Fd()),
		Pdeathsig:   syscall.SIGKILL,
		Setsid:      true,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || strings.HasPrefix(string(out), notStarted) {
		t.Skipf("no machine can be set up here: %v %s", err, out)
	}
	if err != nil {
		t.Errorf("the machine ended with %v\n%s", err, out)
	}
	text, err := os.ReadFile(shared + "/log")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// needs skips the test where a machine cannot be had; it returns systemd's path.
func needs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can boot a systemd of its own")
	}
	for _, name := range []string{"dbus-daemon", "systemd-run", "systemctl", "setpriv"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("no %s here", name)
		}
	}
	for _, path := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	t.Skip("no systemd here")
	return ""
}

// prepare fills the directory that host and machine share.
func prepare(t *testing.T, shared, program string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Mkdir(shared+"/root", 0o755))
	check(os.Mkdir(shared+"/units", 0o755))
	for name, text := range units {
		check(os.WriteFile(shared+"/units/"+name, []byte(strings.ReplaceAll(text, "\t", "")), 0o644))
	}
	check(os.WriteFile(shared+"/run", []byte(run), 0o755))
	check(os.WriteFile(shared+"/probe", nil, 0o755)) // this binary is mounted there
	check(os.WriteFile(shared+"/log", nil, 0o666))
	check(os.Symlink(program, shared+"/systemd"))
}

// becomeInit, in the machine's namespaces, makes its file systems and turns into its systemd.
func becomeInit(shared string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("no cgroup namespace: %w", err)
	}
	root := shared + "/root"
	steps := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"/", root, "", unix.MS_BIND, ""},
		{"", root, "", unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY, ""},
		{"proc", root + "/proc", "proc", 0, ""},
		{root + "/proc/sys", root + "/proc/sys", "", unix.MS_BIND, ""},
		{"", root + "/proc/sys", "", unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY, ""},
		{"sysfs", root + "/sys", "sysfs", unix.MS_RDONLY, ""},
		{"cgroup2", root + "/sys/fs/cgroup", "cgroup2", 0, ""},
		{"tmpfs", root + "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", root + "/tmp", "tmpfs", 0, "mode=1777"},
		{"tmpfs", root + "/var", "tmpfs", 0, "mode=755"},
		{"tmpfs", root + "/dev", "tmpfs", 0, "mode=755"},
		{shared, root + "/run/freezer-test", "", unix.MS_BIND, ""},
		{self, root + "/run/freezer-test/probe", "", unix.MS_BIND, ""},
		{"/dev/null", root + "/dev/null", "", unix.MS_BIND, ""},
		{"/dev/zero", root + "/dev/zero", "", unix.MS_BIND, ""},
		{"/dev/urandom", root + "/dev/urandom", "", unix.MS_BIND, ""},
		{"/dev/random", root + "/dev/random", "", unix.MS_BIND, ""},
	}
	for _, s := range steps {
		switch {
		case s.source == shared:
			_ = os.Mkdir(s.target, 0o755)
		case strings.HasPrefix(s.source, "/dev/"):
			_ = os.WriteFile(s.target, nil, 0o644)
		}
		if err := unix.Mount(s.source, s.target, s.kind, s.flags, s.data); err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
	}
	for name, value := range map[string]string{"/dev/fd": "/proc/self/fd", "/var/run": "../run"} {
		_ = os.Symlink(value, root+name)
	}
	if err := enter(root); err != nil {
		return err
	}
	// What a container may not do either: set the clock, load modules, reboot, read the kernel's log.
	for _, capability := range []uintptr{unix.CAP_SYS_TIME, unix.CAP_SYS_MODULE, unix.CAP_SYS_BOOT, unix.CAP_SYSLOG, unix.CAP_SYS_RAWIO} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return err
		}
	}
	return unix.Exec("/run/freezer-test/systemd", []string{"systemd", "--unit=probe.service", "--show-status=no", "--log-target=console"}, []string{
		"container=freezer-test", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"SYSTEMD_UNIT_PATH=/run/freezer-test/units:/run/systemd/transient", "SYSTEMD_GENERATOR_PATH=/none", "SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/none",
	})
}

// enter makes root this process's root, and lets go of the old one.
func enter(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil { // puts the old one on top of the new one
		return fmt.Errorf("pivot_root: %w", err)
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}

// removeBelow kills what is in the group and removes every cgroup below it,
// whatever its name.
func removeBelow(t *testing.T, g *freezer.Group) {
	if err := g.Kill(context.Background()); err != nil {
		t.Error(err)
	}
	var dirs []string
	_ = filepath.WalkDir(g.Dir(), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != g.Dir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		freezertest.Eventually(t, "remove "+dirs[i], func() bool {
			err := unix.Rmdir(dirs[i])
			return err == nil || err == unix.ENOENT
		})
	}
}
