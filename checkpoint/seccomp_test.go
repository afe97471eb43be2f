//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// saying is a filter that says something of one call, and allows all others.
func saying(nr int, action uint32) []byte {
	var b []byte
	for _, i := range []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
		{Code: unix.BPF_RET | unix.BPF_K, K: action},
		{Code: unix.BPF_RET | unix.BPF_K, K: seccompAllow},
	} {
		b = binary.LittleEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.LittleEndian.AppendUint32(b, i.K)
	}
	return b
}

func TestWhatAFilterSaysIsFoundOut(t *testing.T) {
	failing, killing := []Filter{{Program: saying(5, seccompErrno|1)}}, []Filter{{Program: saying(6, seccompErrno)}, {Program: saying(5, 0)}}
	for _, c := range []struct {
		filters []Filter
		mayFail bool
		nr      int
		ok      bool
	}{{nil, false, 5, true}, {failing, true, 5, true}, {failing, false, 5, false}, {failing, false, 6, true}, {killing, true, 5, false}, {killing, true, 6, true}, {killing, true, 7, true}} {
		if err := allows(c.filters, c.mayFail, 0x1000, c.nr, nil); (err == nil) != c.ok {
			t.Errorf("%v, call %d: %v", c.mayFail, c.nr, err)
		}
	}
	for i := range 16 { // a filter that ends anywhere, or is none, kills
		var data [64]byte
		if got := runFilter(saying(5, seccompAllow)[:2*i], &data); i < 16 && got != 0 {
			t.Errorf("%d bytes of it say %#x", 2*i, got)
		}
	}
}

// A thread that would be killed is not asked, and one that asks others is not
// carried.
func TestFiltersThatCannotBeCarriedAreRefused(t *testing.T) {
	for want, env := range map[string]string{"its system calls go to itself": "DISPATCHED=1", "its seccomp filter would kill it": "KILLED=1", "asks another process (SECCOMP_RET_USER_NOTIF)": "ASKED=1"} {
		cmd := cSubject(t, "seccomp")
		cmd.Env = append(os.Environ(), env)
		s := start(t, cmd)
		_, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{})
		if !errors.Is(err, freezer.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", env, err)
		}
		lives(t, s)
	}
}

func TestKillingACheckpointOfAFilteredProcessHarmsNothing(t *testing.T) {
	cmd := cSubject(t, "seccomp")
	cmd.Env = append(os.Environ(), "NO_NEW_PRIVS=1")
	s := start(t, cmd)
	step := 5
	if os.Getenv("FREEZER_LONG") != "" {
		step = 1
	}
	image := filepath.Join(t.TempDir(), "image")
	for n := 1; ; n += step {
		err := saver(t, saverTask{Root: s.f.Root(), Image: image, Die: -n}).Run()
		s.alive(t, n)
		if exit, ok := err.(*exec.ExitError); !ok || !exit.Sys().(interface{ Signaled() bool }).Signaled() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	goesOn(t, s, s.restore(t, s.save(t, Killed)))
}
