package proc

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const statTail = " S 7 8 9 0 -1 4194560 10 0 0 0 1 2 0 0 20 0 3 0 123456 1 2 3"

func TestParseStat(t *testing.T) {
	for _, command := range []string{"sleep", "", "a b", "a) R 1 (b", "((", "))", "x\ny", ") S 1"} {
		text := "42 (" + command + ")" + statTail
		want := Stat{ID: 42, Command: command, State: 'S', Parent: 7, Flags: 4194560, Threads: 3, Start: 123456}
		if got, ok := ParseStat([]byte(text)); !ok || got != want {
			t.Errorf("ParseStat(%q) = %+v, %v; want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "42", "42 (x", "42 x) S", ")(", "42 (x) S 1", "y (x)" + statTail, "42 (x) SS" + statTail[2:]} {
		if got, ok := ParseStat([]byte(text)); ok {
			t.Errorf("ParseStat(%q) = %+v", text, got)
		}
	}
}

func TestKernelThreadsAreKnownByTheirFlag(t *testing.T) {
	if (Stat{Flags: 0x00400040}).KernelThread() || !(Stat{Flags: 0x00208040}).KernelThread() {
		t.Error("PF_KTHREAD is 0x00200000")
	}
}

func TestReadStatOfThisProcess(t *testing.T) {
	s, err := ReadStat(os.Getpid())
	if err != nil || s.ID != os.Getpid() || s.Parent != os.Getppid() || s.KernelThread() || s.Start == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if s.Threads != len(Threads(os.Getpid())) {
		t.Logf("a thread came or went: %d", s.Threads)
	}
}

func TestWhatIsGoneIsESRCH(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if _, err := ReadStat(pid); err != unix.ESRCH {
		t.Errorf("ReadStat: %v", err)
	}
	if _, err := Cgroups(pid); err != unix.ESRCH {
		t.Errorf("Cgroups: %v", err)
	}
	if Process(pid) != 0 || Threads(pid) != nil || Status(pid, "Tgid") != "" || WaitChannel(pid) != "" {
		t.Error("it has a Tgid, threads or a wait channel")
	}
}

func TestAProcessKeepsItsInode(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	inode := func(pid int) uint64 {
		for _, e := range Entries() {
			if e.ID == pid {
				return e.Inode
			}
		}
		t.Fatalf("process %d is not listed", pid)
		return 0
	}
	self, other := inode(os.Getpid()), inode(cmd.Process.Pid)
	var st unix.Stat_t
	if err := unix.Stat(Path(cmd.Process.Pid, ""), &st); err != nil || st.Ino != other {
		t.Errorf("%v; it is %d, listed as %d", err, st.Ino, other)
	}
	if self == 0 || self == other || self != inode(os.Getpid()) || other != inode(cmd.Process.Pid) {
		t.Errorf("they are %d and %d, and then %d and %d", self, other, inode(os.Getpid()), inode(cmd.Process.Pid))
	}
	if ids := All(); !slices.IsSorted(ids) || !slices.Contains(ids, cmd.Process.Pid) {
		t.Errorf("the list is %v", ids)
	}
}

func TestAncestorsBeginWithTheParent(t *testing.T) {
	above := Ancestors(os.Getpid())
	if len(above) > 0 && above[0] != os.Getppid() {
		t.Errorf("Ancestors = %v, want %d first", above, os.Getppid())
	}
}

func TestDescendantsAreThoseBelowInOrder(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var grandchild int
	_, err = fmt.Fscan(out, &grandchild)
	t.Cleanup(func() {
		_ = unix.Kill(grandchild, unix.SIGKILL)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	self, err := ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	below := func(family map[int]uint64) (pids []int) {
		for _, s := range Descendants(family) {
			pids = append(pids, s.ID)
		}
		return pids
	}
	child := cmd.Process.Pid
	pids := below(map[int]uint64{self.ID: self.Start})
	i, j := slices.Index(pids, child), slices.Index(pids, grandchild)
	if i < 0 || j < i || slices.Contains(pids, self.ID) {
		t.Errorf("below %d: %v, want %d, then %d", self.ID, pids, child, grandchild)
	}
	if pids := below(map[int]uint64{self.ID: self.Start + 1}); pids != nil {
		t.Errorf("a process that got the PID of another has descendants %v", pids)
	}
	s, _ := ReadStat(child)
	both := below(map[int]uint64{self.ID: self.Start, child: s.Start})
	if n := len(slices.Compact(slices.Sorted(slices.Values(both)))); n != len(both) {
		t.Errorf("some are listed twice: %v", both)
	}
}

func TestParseCgroups(t *testing.T) {
	text := "9:name=systemd:/\n6:cpu,freezer:/a:b/c\n5:devices:/x (deleted)\n0::/\nbroken\n1:cpu:relative\n"
	want := []Cgroup{
		{"name=systemd", "/", false},
		{"cpu,freezer", "/a:b/c", false},
		{"devices", "/x", false},
		{"", "/", true},
	}
	got := ParseCgroups([]byte(text))
	if !slices.Equal(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if !got[1].Has("freezer") || got[1].Has("free") || got[0].Has("freezer") || got[3].Has("freezer") {
		t.Error("Has looks at whole controllers")
	}
}

func TestStatusField(t *testing.T) {
	text := []byte("Name:\tTgid: 7\nTgid:\t12\nNSpid:\t12\t1\n")
	for field, want := range map[string]string{"Tgid": "12", "NSpid": "12\t1", "Name": "Tgid: 7", "Pid": "", "": ""} {
		if got := StatusField(text, field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
}

// FuzzStat reads anything, and what the kernel prints for any command.
func FuzzStat(f *testing.F) {
	f.Add([]byte("42 (sleep)" + statTail))
	f.Add([]byte(") S 1 2 ("))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, ok := ParseStat(text); ok && !bytes.Contains(text, []byte("("+s.Command+")")) {
			t.Errorf("command %q is not in %q", s.Command, text)
		}
		s, ok := ParseStat(fmt.Appendf(nil, "42 (%s)%s", text, statTail))
		if !ok || s.Command != string(text) || s.Parent != 7 || s.Start != 123456 {
			t.Errorf("command %q is read as %+v, %v", text, s, ok)
		}
	})
}

func FuzzCgroups(f *testing.F) {
	f.Add([]byte("0::/\n6:freezer:/a:b (deleted)\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, c := range ParseCgroups(text) {
			line := ":" + c.Controllers + ":" + c.Path
			if !bytes.Contains(text, []byte(line)) || c.Path != "" && c.Path[0] != '/' || strings.Contains(c.Path, "\n") {
				t.Errorf("%+v is not in %q", c, text)
			}
		}
	})
}

func FuzzStatusField(f *testing.F) {
	f.Add([]byte("Name:\tx\nTgid:\t1\n"), "Tgid")
	f.Fuzz(func(t *testing.T, text []byte, field string) {
		if value := StatusField(text, field); !bytes.Contains(text, []byte(value)) || strings.Contains(value, "\n") {
			t.Errorf("%q: %q is not in %q", field, value, text)
		}
		if strings.ContainsAny(field, ":\n") {
			return
		}
		if got := StatusField([]byte(field+":\t7\n"+string(text)), field); got != "7" {
			t.Errorf("%q is %q", field, got)
		}
	})
}
