//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A database is in the midst of a transaction: nobody else gets at it, and it is
// ended well.
func TestSQLiteGoesOnInATransaction(t *testing.T) {
	sqlite, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip(err)
	}
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			s := start(t, exec.Command("/bin/sh", "-c", `cat >script <<'END'
pragma journal_mode=`+mode+`;
create table t(x); insert into t with recursive n(v) as (select 1 union all select v + 1 from n where v < 10000) select v from n;
begin immediate;
update t set x = x + 1;
.system echo ready
.system until [ -e go ]; do sleep 0.01; done
insert into t select x from t;
commit;
END
exec sqlite3 -batch -bail db <script`))
			image := s.save(t, Killed)
			job := s.restore(t, image)
			db := filepath.Join(s.dir, "db")
			if out, err := exec.Command(sqlite, db, "delete from t").CombinedOutput(); err == nil || !strings.Contains(string(out), "database is locked") {
				t.Errorf("another one is told %s, %v", out, err)
			}
			if err := os.WriteFile(filepath.Join(s.dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			ends(t, s, job)
			out, err := exec.Command(sqlite, db, "pragma integrity_check; select count(*), sum(x) from t").CombinedOutput()
			if err != nil || string(out) != "ok\n20000|100030000\n" {
				t.Errorf("it has %s, %v", out, err)
			}
		})
	}
}

func TestALockThatOthersHaveNowIsRefused(t *testing.T) {
	s := start(t, cSubject(t, "locks"))
	image := s.save(t, Killed)
	for _, name := range []string{"a", "c", "o"} {
		f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if name == "c" {
			err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
		} else {
			err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{})
		if err == nil || !strings.Contains(err.Error(), "is locked by others now: "+f.Name()+", by process "+strconv.Itoa(os.Getpid())) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
	goesOn(t, s, s.restore(t, image))
}
