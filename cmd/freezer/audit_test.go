package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// The program is given a journal of the test's own, in a mount namespace.
func TestTheJournalLearnsWhoDidWhatAndWhy(t *testing.T) {
	if _, err := exec.LookPath("unshare"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and unshare")
	}
	dir := t.TempDir()
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	eachKernelBackend(t, func(t *testing.T, f *freezer.Freezer) {
		g := group(t, f, "g", freezertest.Sleeper(t))
		for _, c := range []struct{ args, want string }{
			{"freeze --why=night g", "FREEZER_OP=freeze FREEZER_REASON=night PRIORITY=5"},
			{"freeze --force g", "FREEZER_OP=freeze FREEZER_FORCED=1 PRIORITY=4"},
			{"thaw --why=day g", "FREEZER_OP=thaw FREEZER_REASON=day"},
			{"kill g", "FREEZER_OP=kill"},
			{"kill no-such", "FREEZER_OP=kill FREEZER_GROUP=no-such PRIORITY=4"},
		} {
			const script = `mount -t tmpfs none /run && mkdir -p /run/systemd && ln -s "$0" /run/systemd/journal && exec "$@"`
			cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", script, dir, built(t)}, strings.Fields(c.args)...)...)
			cmd.Env = environ(f)
			out, _ := cmd.CombinedOutput()
			entry := make([]byte, 8192)
			if err := journal.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := journal.Read(entry)
			if err != nil {
				t.Fatalf("%s: %v; %s", c.args, err, out)
			}
			want := c.want + " FREEZER_UID=0 SYSLOG_IDENTIFIER=freezer"
			if !strings.Contains(want, "GROUP") {
				want += fmt.Sprintf(" FREEZER_GROUP=g FREEZER_DIR=%s", g.Dir())
			}
			for field := range strings.FieldsSeq(want) {
				if !strings.Contains("\n"+string(entry[:n]), "\n"+field+"\n") {
					t.Errorf("%s: no %s in\n%s", c.args, field, entry[:n])
				}
			}
		}
	})
}
