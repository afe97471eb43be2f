package freezerfs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

// A user of the tests; nobody needs to know the numbers.
type user struct {
	uid, gid uint32
	groups   []uint32
}

var (
	root  = user{}
	alice = user{4001, 5001, nil}
	bob   = user{4002, 5002, []uint32{5001}} // also of alice's group
)

// may runs a shell script as a user, with $m for the mount, and says whether it
// succeeded; out is what it wrote.
func (t *tree) may(u user, script string, env ...string) (ok bool, out string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = "/"
	cmd.Env = append([]string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "m=" + t.dir}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}}
	text, err := cmd.CombinedOutput()
	return err == nil, string(text)
}

// allows fails the test unless each script succeeds as that user.
func (t *tree) allows(u user, scripts ...string) {
	t.Helper()
	for _, script := range scripts {
		if ok, out := t.may(u, script); !ok {
			t.Errorf("user %d, %s: %s", u.uid, script, out)
		}
	}
}

// denies fails the test unless each script fails for want of a right.
func (t *tree) denies(u user, scripts ...string) {
	t.Helper()
	for _, script := range scripts {
		if ok, out := t.may(u, script); ok || !strings.Contains(out, "denied") && !strings.Contains(out, "not permitted") {
			t.Errorf("user %d, %s: succeeded %v, %q; it should be denied", u.uid, script, ok, out)
		}
	}
}

// needRoot skips the test where it cannot be other users.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be other users")
	}
}

func (t *tree) chown(u user, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Chown(t.path(name), int(u.uid), int(u.gid)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAUserCanBeGivenAGroup(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "b")
		tr.denies(alice, `mkdir $m/c`, `mkdir $m/a/c`, `rmdir $m/a`, `echo FROZEN > $m/a/freezer.state`, `echo 0 > $m/a/tasks`,
			`echo 1 > $m/a/notify_on_release`, `: > $m/a/tasks`, `chmod 777 $m/a`, `chown 4001 $m/a`, `touch $m/a/tasks`, `touch -d yesterday $m/a`)
		tr.allows(alice, `cat $m/a/freezer.state $m/a/tasks $m/tasks`, `ls -lR $m`, `test -r $m/a/tasks`, `! test -w $m/a/tasks`, `! test -w $m/a`)
		tr.chown(alice, "a", "a/tasks", "a/freezer.state", "a/notify_on_release", "a/cgroup.clone_children")
		tr.allows(alice, `echo FROZEN > $m/a/freezer.state`, `echo THAWED >> $m/a/freezer.state`, `mkdir $m/a/c`, `test -w $m/a/tasks`,
			`echo 1 > $m/a/notify_on_release`, `echo 1 > $m/a/cgroup.clone_children`, `chmod 700 $m/a/tasks`, `chmod 644 $m/a/tasks`, `touch $m/a/tasks`)
		tr.denies(alice, `echo 0 > $m/a/cgroup.procs`, `echo FROZEN > $m/b/freezer.state`, `rmdir $m/a`, `chown 4002 $m/a/tasks`, `chgrp 5002 $m/a/tasks`,
			`chmod 777 $m/a/cgroup.procs`)
		tr.denies(bob, `echo FROZEN > $m/a/freezer.state`, `mkdir $m/a/d`, `rmdir $m/a/c`, `chmod 777 $m/a`)
		// What she makes is hers, whole.
		for _, name := range append([]string{""}, groupFiles...) {
			if st := tr.stat("a/c/" + name); st.Uid != alice.uid || st.Gid != alice.gid {
				t.Errorf("a/c/%s is %d:%d's", name, st.Uid, st.Gid)
			}
		}
		tr.allows(alice, `echo FROZEN > $m/a/c/freezer.state`, `echo 0 > $m/a/c/notify_on_release`, `rmdir $m/a/c`)
		// It lasts: another server has it from the kernel.
		two := tr.again()
		two.allows(alice, `echo FROZEN > $m/a/freezer.state`, `mkdir $m/a/c`, `rmdir $m/a/c`)
		two.denies(bob, `echo THAWED > $m/a/freezer.state`, `echo 0 > $m/a/notify_on_release`)
		tr.chown(root, "a/freezer.state")
		two.denies(alice, `echo THAWED > $m/a/freezer.state`)
		// And not longer than the group.
		tr.put("THAWED", "a/freezer.state")
		tr.rmdir("a")
		tr.mkdir("a")
		tr.denies(alice, `echo FROZEN > $m/a/freezer.state`, `echo 1 > $m/a/notify_on_release`, `mkdir $m/a/c`)
	})
}

func TestPermissionsAreEnforcedAsByTheKernel(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		tr.chown(alice, "a", "a/freezer.state", "a/notify_on_release")
		chmod := func(mode os.FileMode, names ...string) {
			for _, name := range names {
				if err := os.Chmod(tr.path(name), mode); err != nil {
					t.Fatal(err)
				}
			}
		}
		both := []string{"a/freezer.state", "a/notify_on_release"} // with and without a file of the kernel's
		chmod(0o640, both...)
		tr.allows(bob, `cat $m/a/freezer.state`, `cat $m/a/notify_on_release`) // by his second group
		tr.denies(bob, `echo FROZEN > $m/a/freezer.state`, `echo 1 > $m/a/notify_on_release`)
		chmod(0o660, both...)
		tr.allows(bob, `echo FROZEN > $m/a/freezer.state`, `echo 1 > $m/a/notify_on_release`)
		chmod(0o606, both...) // the group has less than others
		tr.denies(bob, `cat $m/a/freezer.state`, `echo 1 > $m/a/notify_on_release`)
		tr.allows(user{4003, 5003, nil}, `cat $m/a/freezer.state`, `echo 1 > $m/a/notify_on_release`)
		chmod(0o066, both...) // and the owner least of all
		tr.denies(alice, `cat $m/a/freezer.state`, `echo 1 > $m/a/notify_on_release`)
		tr.allows(root, `cat $m/a/freezer.state`, `echo THAWED > $m/a/freezer.state`)
		tr.allows(alice, `chmod 644 $m/a/freezer.state`, `chgrp 5001 $m/a/freezer.state`)
		tr.allows(bob, `! chown 4002 $m/a/freezer.state 2>/dev/null`)

		chmod(0o700, "a") // whoever may not search it has nothing in it
		tr.denies(bob, `cat $m/a/freezer.state`, `ls $m/a`, `env -C $m/a true`, `mkdir $m/a/b`)
		tr.allows(alice, `cat $m/a/freezer.state`, `ls $m/a`, `env -C $m/a true`, `mkdir $m/a/b`)
		chmod(0o711, "a")
		tr.allows(bob, `cat $m/a/freezer.state`, `env -C $m/a true`)
		tr.denies(bob, `ls $m/a`)
		chmod(0o744, "a")
		tr.denies(bob, `cat $m/a/freezer.state`, `env -C $m/a true`)
		tr.allows(bob, `ls $m/a`)
		if err := unix.Chmod(tr.path("a"), 01777); err != nil { // sticky
			t.Fatal(err)
		}
		tr.allows(bob, `mkdir $m/a/bobs`)
		tr.denies(user{4003, 5003, nil}, `rmdir $m/a/bobs`)
		tr.allows(bob, `rmdir $m/a/bobs`)
		if st := tr.stat("a"); st.Mode&07777 != 01777 {
			t.Errorf("mode %o", st.Mode)
		}
	})
}

func TestWhatOneHasFoundIsNotFoundByAnotherWhoMayNotSearch(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a", "a/b", "a/b/c")
		tr.chown(alice, "a")
		if err := os.Chmod(tr.path("a"), 0o700); err != nil {
			t.Fatal(err)
		}
		for range 3 { // the kernel remembers from one to the other
			tr.allows(alice, `cat $m/a/b/c/freezer.state $m/a/tasks`, `ls $m/a/b/c`, `env -C $m/a/b/c true`, `stat $m/a/b`)
			tr.denies(bob, `cat $m/a/b/c/freezer.state`, `cat $m/a/tasks`, `ls $m/a/b/c`, `env -C $m/a/b/c true`, `stat $m/a/b`, `stat $m/a/b/c/tasks`)
		}
	})
}

func TestAMadeGroupHasTheModeThatWasAskedFor(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		for _, mode := range []uint32{0o700, 0o755, 0o750, 0o711} {
			if err := unix.Mkdir(tr.path("a"), mode); err != nil {
				t.Fatal(err)
			}
			if st := tr.stat("a"); st.Mode != unix.S_IFDIR|mode {
				t.Errorf("mode %o, want %o", st.Mode, mode)
			}
			tr.rmdir("a")
		}
	})
}

func TestOnlyRootMovesWhatRunsAsOthers(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		tr.chown(alice, "a", "a/tasks", "a/cgroup.procs")
		sleeper := func(u user) string {
			cmd := exec.Command("sleep", "1000")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid}, Pdeathsig: syscall.SIGKILL}
			freezertest.Run(t, cmd)
			return fmt.Sprint(cmd.Process.Pid)
		}
		hers, his, roots := sleeper(alice), sleeper(bob), sleeper(root)
		for _, file := range []string{"tasks", "cgroup.procs"} {
			for _, pid := range []string{his, roots, "1"} {
				if ok, out := tr.may(alice, `echo `+pid+` | tee $m/a/`+file); ok || !strings.Contains(out, "Permission denied") {
					t.Errorf("she may write %s to %s: %v, %s", pid, file, ok, out)
				}
			}
			tr.allows(alice, `echo `+hers+` > $m/a/`+file)
			tr.says(hers, "a/"+file)
			tr.allows(root, `echo `+his+` > $m/a/`+file, `echo `+his+` > $m/`+file)
			tr.denies(alice, `echo `+hers+` > $m/`+file) // out of it: that is not hers
			tr.put(hers, file)
		}
	})
}

func TestADescriptorDoesNotBorrowItsWritersRights(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		tr.chown(alice, "a/tasks")
		fd, err := openAs(alice, tr.path("a/tasks"))
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		roots := freezertest.Sleeper(t)
		if _, err := unix.Write(fd, fmt.Append(nil, roots)); err != unix.EACCES {
			t.Errorf("root writes to a file that alice opened: %v, want EACCES", err)
		}
		if got := tr.read("a/tasks"); got != "" {
			t.Errorf("tasks: %q", got)
		}
	})
}

// openAs opens a file for writing as another user.
func openAs(u user, path string) (fd int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := errors.Join(unix.Setfsgid(int(u.gid)), unix.Setfsuid(int(u.uid))); err != nil {
		return -1, err
	}
	fd, err = unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	return fd, errors.Join(err, unix.Setfsuid(0), unix.Setfsgid(0))
}

func TestTheReleaseAgentIsForTheMightyOnly(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.denies(alice, `echo /bin/evil > $m/release_agent`)
		tr.chown(alice, "release_agent", ".")
		tr.denies(alice, `echo /bin/evil | tee $m/release_agent`)
		// root without the capability, as in a container
		cmd := exec.Command("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "sh", "-c", `echo /bin/evil | tee $m/release_agent`)
		cmd.Env = append(os.Environ(), "m="+tr.dir)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "not permitted") {
			t.Errorf("root without CAP_SYS_ADMIN: %v, %s", err, out)
		}
		tr.says("", "release_agent")
		tr.allows(root, `echo /bin/true > $m/release_agent`)
		tr.says("/bin/true", "release_agent")
	})
}
