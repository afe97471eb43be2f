package freezerfs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestAnyOtherWordIsEIOAndChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		for _, state := range []string{"THAWED", "FROZEN"} {
			tr.put(state, "a/freezer.state")
			for _, word := range []string{
				"FREEZING", "frozen", "Thawed", "0", "1", "F", "\n", " ", "FROZEN THAWED", "THAWED\nFROZEN\n", "FROZENX", strings.Repeat("x", 4000),
			} {
				tr.refuses(word, "a/freezer.state", syscall.EIO)
				tr.says(state, "a/freezer.state")
			}
			tr.refuses(strings.Repeat("x", 5000), "a/freezer.state", syscall.E2BIG)
			tr.says(state, "a/freezer.state")
		}
		tr.refuses("1", "a/freezer.self_freezing", syscall.EINVAL)
		tr.refuses("1", "a/freezer.parent_freezing", syscall.EINVAL)
	})
}

func TestEachWayToWriteAWordWorks(t *testing.T) {
	ways := map[string]string{
		"echo":              `echo FROZEN > $f`,
		"echo -n":           `printf FROZEN > $f`,
		"appending":         `echo FROZEN >> $f`,
		"with blanks":       `printf ' FROZEN \n\n' > $f`,
		"with a NUL":        `printf 'FROZEN\000' > $f`,
		"read and write":    `echo FROZEN 1<> $f`,
		"tee":               `echo FROZEN | tee $f`,
		"tee -a":            `echo FROZEN | tee -a $f`,
		"dd":                `echo FROZEN | dd of=$f 2>/dev/null`,
		"dd somewhere":      `echo FROZEN | dd of=$f bs=7 seek=3 conv=notrunc 2>/dev/null`,
		"cp":                `echo FROZEN > $d/word; cp $d/word $f`,
		"twice and thrice":  `exec 3> $f; echo FROZEN >&3; echo THAWED >&3; echo FROZEN >&3`,
		"after a wrong one": `exec 3> $f; echo FREEZING >&3; echo FROZEN >&3`,
		"truncate before":   `: > $f; truncate -s 0 $f; echo FROZEN > $f`,
	}
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		for name, script := range ways {
			tr.put("THAWED", "a/freezer.state")
			cmd := exec.Command("sh", "-c", script)
			cmd.Env = append(os.Environ(), "f="+tr.path("a/freezer.state"), "d="+t.TempDir())
			if out, err := cmd.CombinedOutput(); err != nil && name != "after a wrong one" {
				t.Errorf("%s: %v: %s", name, err, out)
			}
			if got := tr.read("a/freezer.state"); got != "FROZEN\n" {
				t.Errorf("%s: state is %q", name, got)
			}
		}
	})
}

func TestAnOpenFileIsReadInPiecesAndAgain(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		f, err := os.OpenFile(tr.path("a/freezer.state"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var pieces strings.Builder
		one := make([]byte, 1)
		for {
			n, err := f.Read(one)
			pieces.Write(one[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			tr.put("FROZEN", "a/freezer.state") // what was begun is read to its end
		}
		if pieces.String() != "THAWED\n" {
			t.Errorf("byte by byte: %q", pieces.String())
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(f); err != nil || string(text) != "FROZEN\n" {
			t.Errorf("from the start again: %q, %v", text, err)
		}
		buf := make([]byte, 100)
		if n, err := f.ReadAt(buf, 2); err != io.EOF || string(buf[:n]) != "OZEN\n" {
			t.Errorf("from the third byte: %q, %v", buf[:n], err)
		}
		if n, err := f.ReadAt(buf, 1<<40); n != 0 || err != io.EOF {
			t.Errorf("far behind the end: %d, %v", n, err)
		}
		if _, err := f.WriteAt([]byte("THAWED"), 1<<30); err != nil {
			t.Error(err)
		}
		if n, err := f.ReadAt(buf, 0); err != io.EOF || string(buf[:n]) != "THAWED\n" {
			t.Errorf("after writing to it: %q, %v", buf[:n], err)
		}
	})
}

func TestIncompleteFreezingIsEBUSYWhenTheGraceIsOver(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		const grace = 300 * time.Millisecond
		tr := mount(t, backend, freezerfs.Options{Grace: grace})
		tr.mkdir("a")
		blocker, release := freezertest.Blocker(t)
		tr.put(fmt.Sprint(blocker), "a/tasks")
		start := time.Now()
		tr.refuses("FROZEN", "a/freezer.state", syscall.EBUSY)
		if took := time.Since(start); took < grace || took > grace+2*time.Second {
			t.Errorf("took %v, want about %v", took, grace)
		}
		tr.says("FREEZING", "a/freezer.state")
		tr.refuses("FREEZING", "a/freezer.state", syscall.EIO)
		tr.says("FREEZING", "a/freezer.state")
		release()
		tr.becomes("FROZEN", "a/freezer.state")
	})
}

func TestWithNowaitFreezingIsAskedForOnly(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{Grace: 10 * time.Second, NoWait: true})
		tr.mkdir("a")
		blocker, release := freezertest.Blocker(t)
		tr.put(fmt.Sprint(blocker), "a/tasks")
		start := time.Now()
		tr.put("FROZEN", "a/freezer.state")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		tr.says("FREEZING", "a/freezer.state")
		tr.put("THAWED", "a/freezer.state")
		tr.says("THAWED", "a/freezer.state")
		tr.put("FROZEN", "a/freezer.state")
		release()
		tr.becomes("FROZEN", "a/freezer.state")
	})
}

// selfFreezer freezes its own group and says so before and after.
const selfFreezer = `echo $$ > $m/$home/tasks; echo before > $d/before; echo FROZEN > $m/$target/freezer.state; echo $? > $d/after`

func TestATaskMayFreezeItsOwnGroup(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{Grace: 5 * time.Second})
		tr.mkdir("a", "a/b")
		for i := range 20 {
			home, target := "a", "a"
			if i%2 == 1 {
				home = "a/b" // below what it freezes
			}
			d := t.TempDir()
			cmd := exec.Command("sh", "-c", selfFreezer)
			cmd.Env = append(os.Environ(), "m="+tr.dir, "home="+home, "target="+target, "d="+d)
			freezertest.Run(t, cmd)
			freezertest.Eventually(t, "it is about to freeze itself", func() bool { return exists(filepath.Join(d, "before")) })
			tr.becomes("FROZEN", target+"/freezer.state")
			if exists(filepath.Join(d, "after")) {
				t.Fatal("it went on in a frozen group")
			}
			tr.put("THAWED", target+"/freezer.state")
			freezertest.Eventually(t, "it goes on", func() bool {
				text, err := os.ReadFile(filepath.Join(d, "after"))
				return err == nil && string(text) == "0\n"
			})
		}
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestReadersInsideAGroupDoNotKeepItFromFreezing(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		for range 4 {
			reader := exec.Command("sh", "-c", `while :; do read x < $m/a/freezer.state; read y < $m/a/tasks; mkdir $m/a/$$; rmdir $m/a/$$; done`)
			reader.Env = append(os.Environ(), "m="+tr.dir)
			freezertest.Run(t, reader)
			tr.put(fmt.Sprint(reader.Process.Pid), "a/tasks")
		}
		for range 20 {
			freezertest.Eventually(t, "it is frozen", func() bool { return tr.write("FROZEN", "a/freezer.state") == nil })
			tr.says("FROZEN", "a/freezer.state")
			tr.put("THAWED", "a/freezer.state")
		}
	})
}

func TestTheServersOwnGroupIsRefused(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		// Should it be frozen all the same, this very test would hang.
		rescue := time.AfterFunc(20*time.Second, func() {
			groups, _ := tr.f.Groups()
			_ = freezer.Gang(groups).Thaw(freezer.AllHolds())
		})
		defer rescue.Stop()
		tr.mkdir("a", "a/b", "cold")
		tr.put("FROZEN", "cold/freezer.state")
		server := fmt.Sprint(tr.server)
		tr.refuses(server, "cold/cgroup.procs", syscall.EDEADLK)
		tr.refuses(server, "cold/tasks", syscall.EDEADLK)
		tr.put(server, "a/b/cgroup.procs")
		for _, group := range []string{"a", "a/b"} {
			tr.refuses("FROZEN", group+"/freezer.state", syscall.EDEADLK)
			tr.says("THAWED", group+"/freezer.state")
		}
		tr.refuses(server, "a/tasks", syscall.EDEADLK) // one thread of it
		tr.put(server, "cgroup.procs")
		tr.put("FROZEN", "a/freezer.state")
		tr.says("FROZEN", "a/freezer.state")
	})
}

func TestOneWhoWaitsForFreezingKeepsOthersNoLongerThanTheGrace(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		const grace = 500 * time.Millisecond
		tr := mount(t, backend, freezerfs.Options{Grace: grace})
		tr.mkdir("a", "b")
		blocker, release := freezertest.Blocker(t)
		tr.put(fmt.Sprint(blocker), "a/tasks")
		waiting := make(chan error, 1)
		go func() { waiting <- tr.write("FROZEN", "a/freezer.state") }()
		tr.becomes("FREEZING", "a/freezer.state")
		start := time.Now()
		tr.put("FROZEN", "b/freezer.state") // another group: at once
		tr.says("FREEZING", "a/freezer.state")
		tr.put("THAWED", "a/freezer.state")
		if took := time.Since(start); took > grace+2*time.Second {
			t.Errorf("to thaw took %v, the grace is %v", took, grace)
		}
		if err := <-waiting; !errors.Is(err, syscall.EBUSY) {
			t.Errorf("who waited got %v, want EBUSY", err)
		}
		tr.says("THAWED", "a/freezer.state")
		release()
	})
}

func TestAClientThatDiesOrFreezesInARequestHurtsNobody(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{Grace: time.Second})
		tr.mkdir("a", "home")
		blocker, release := freezertest.Blocker(t)
		tr.put(fmt.Sprint(blocker), "a/tasks")
		client := func() int {
			cmd := exec.Command("sh", "-c", `echo $$ > $m/home/tasks; while :; do echo FROZEN > $m/a/freezer.state; done`)
			cmd.Env = append(os.Environ(), "m="+tr.dir)
			freezertest.Run(t, cmd)
			return cmd.Process.Pid
		}
		dies := client()
		tr.becomes("FREEZING", "a/freezer.state") // it is in its request
		if err := syscall.Kill(dies, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		freezertest.Eventually(t, "it is dead", func() bool { return tr.read("home/tasks") == "" })
		client()
		freezertest.Eventually(t, "it is there", func() bool { return tr.read("home/tasks") != "" })
		freezertest.Eventually(t, "the client is frozen", func() bool { return tr.write("FROZEN", "home/freezer.state") == nil })
		tr.says("FREEZING", "a/freezer.state")
		tr.put("THAWED", "a/freezer.state")
		tr.says("THAWED", "a/freezer.state")
		release()
	})
}

func TestTHAWEDIsTheLastWordWhoeverHoldsTheGroup(t *testing.T) {
	each(t, func(t *testing.T, backend string) {
		tr := mount(t, backend, freezerfs.Options{})
		tr.mkdir("a")
		g, err := tr.f.Group("a")
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if err := g.Freeze(context.Background(), freezer.By("batch")); errors.Is(err, freezer.ErrUnsupported) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
		tr.put("FROZEN", "a/freezer.state")
		tr.put("THAWED", "a/freezer.state")
		tr.says("THAWED", "a/freezer.state")
		if holds, err := g.Holds(); len(holds) > 0 || err != nil {
			t.Errorf("it is still held: %v, %v", holds, err)
		}
	})
}
