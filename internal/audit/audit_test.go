package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen makes a log at a path of its own.
func listen(t testing.TB) (path string, received func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return path, func() string {
		buf := make([]byte, 4096)
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

// use makes Record talk to these logs until the test ends.
func use(t testing.TB, j, s string) {
	oldJournal, oldSyslog := journal, syslog
	journal, syslog = j, s
	t.Cleanup(func() { journal, syslog = oldJournal, oldSyslog })
}

const nowhere = "/nonexistent/log"

func TestTheJournalGetsFieldsToSearchFor(t *testing.T) {
	path, received := listen(t)
	use(t, path, nowhere)
	Record(Event{Op: "freeze", Group: "sim", Dir: "/sys/fs/cgroup/freezer/sim", Forced: true, Reason: "night"})
	got := received()
	for _, want := range []string{
		"PRIORITY=4\n", "SYSLOG_IDENTIFIER=freezer\n", "FREEZER_OP=freeze\n", "FREEZER_GROUP=sim\n",
		"FREEZER_DIR=/sys/fs/cgroup/freezer/sim\n", "FREEZER_FORCED=1\n", "FREEZER_REASON=night\n",
		fmt.Sprintf("FREEZER_PID=%d\n", os.Getpid()), fmt.Sprintf("FREEZER_UID=%d\n", os.Getuid()),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	message := regexp.MustCompile(`(?m)^MESSAGE=freeze sim \(forced\) by uid \d+.*, .+\[\d+\] from .+\[\d+\], because: night$`)
	if !message.MatchString(got) {
		t.Errorf("message: %s", got)
	}
}

func TestAValueWithNewlinesCannotForgeAField(t *testing.T) {
	path, received := listen(t)
	use(t, path, nowhere)
	evil := "night\nFREEZER_UID=4711"
	Record(Event{Op: "thaw", Group: "sim", Reason: evil})
	size := binary.LittleEndian.AppendUint64(nil, uint64(len(evil)))
	if want := "FREEZER_REASON\n" + string(size) + evil + "\n"; !strings.Contains(received(), want) {
		t.Errorf("not framed by its length")
	}
}

func TestWithoutAJournalSyslogGetsOneLine(t *testing.T) {
	path, received := listen(t)
	use(t, nowhere, path)
	Record(Event{Op: "kill", Group: "sim", Reason: "over\n<0>forged", Err: errors.New("not permitted")})
	got := received()
	form := regexp.MustCompile(`^<28>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d freezer\[\d+\]: kill sim by uid \d+.*because: over <0>forged: failed: not permitted$`)
	if !form.MatchString(got) {
		t.Errorf("got %q", got)
	}
}

func TestWithoutAnyLogNothingHappens(t *testing.T) {
	use(t, nowhere, nowhere)
	Record(Event{Op: "freeze", Group: "sim"})
}

func TestALogThatDoesNotReadIsNotWaitedFor(t *testing.T) {
	path, _ := listen(t)
	use(t, path, path)
	start := time.Now()
	for range 1000 { // far more than a socket holds
		Record(Event{Op: "freeze", Group: "sim"})
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func BenchmarkRecord(b *testing.B) {
	path, received := listen(b)
	use(b, path, nowhere)
	for b.Loop() {
		Record(Event{Op: "freeze", Group: "sim"})
		b.StopTimer()
		received()
		b.StartTimer()
	}
}
