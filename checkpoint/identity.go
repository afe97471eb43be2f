package checkpoint

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// securebits(7), while identities are changed: capabilities stay what they are.
const keepCaps = 1<<4 | 1<<2 // SECBIT_KEEP_CAPS, SECBIT_NO_SETUID_FIXUP

// identify has a thread act for whom it acted. Where that is whom this program
// acts for nothing is done; else the kernel says what this program may give.
func (r *restorer) identify(w *worker, id Identity) error {
	status, err := kernfs.ReadFile(proc.Path(os.Getpid(), "status"))
	if err != nil {
		return err
	}
	own := readIdentity(func(field string) string { return proc.StatusField(status, field) })
	same := own.same(id) && id.SecureBits == 0
	if !same {
		if err := setGroups(w, own, id); err != nil {
			return err
		}
		w.do("GIDs", unix.SYS_SETRESGID, uintptr(id.GIDs[0]), uintptr(id.GIDs[1]), uintptr(id.GIDs[2]))
		w.do("file system GID", unix.SYS_SETFSGID, uintptr(id.GIDs[3]))
		for c := range 64 {
			if own.Caps[3]>>c&1 == 1 && id.Caps[3]>>c&1 == 0 {
				w.do("dropping a capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c))
			}
		}
		w.do("keeping capabilities", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, keepCaps)
		w.do("UIDs", unix.SYS_SETRESUID, uintptr(id.UIDs[0]), uintptr(id.UIDs[1]), uintptr(id.UIDs[2]))
		w.do("file system UID", unix.SYS_SETFSUID, uintptr(id.UIDs[3]))
		caps := make([]byte, 24) // two struct __user_cap_data_struct
		for half := range 2 {
			for i, set := range []uint64{id.Caps[2], id.Caps[1], id.Caps[0]} {
				put64Part(caps[12*half+4*i:], uint32(set>>(32*half)))
			}
		}
		head := make([]byte, 8)
		put64(head, 0x20080522) // _LINUX_CAPABILITY_VERSION_3, this thread
		// The securebits come first: they need a capability.
		w.do("securebits", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, uintptr(id.SecureBits))
		w.do("capabilities", unix.SYS_CAPSET, w.put(head), w.put(caps))
		for c := range 64 {
			if id.Caps[4]>>c&1 == 1 {
				w.do("ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0)
			}
		}
	}
	if id.NoNewPrivs {
		w.do("no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	return nil
}

// setGroups has a thread be in its groups. In the user namespace of a user nobody can
// change them: there they must be as many, and those that are known there the same.
func setGroups(w *worker, own, id Identity) error {
	if policy, err := os.ReadFile("/proc/self/setgroups"); err == nil && strings.TrimSpace(string(policy)) == "deny" {
		const unknown = 65534 // as which a namespace shows all others
		for i, g := range own.Groups {
			if len(own.Groups) != len(id.Groups) || g != unknown && g != id.Groups[i] {
				return fmt.Errorf("process %d: its groups are %v: only root can set them", w.own[0], id.Groups)
			}
		}
		if len(own.Groups) == len(id.Groups) {
			return nil
		}
	}
	groups := make([]byte, 4*len(id.Groups)+8)
	for i, g := range id.Groups {
		put64(groups[4*i:], uint64(uint32(g)))
	}
	w.do("groups", unix.SYS_SETGROUPS, uintptr(len(id.Groups)), w.put(groups))
	return nil
}

func put64Part(b []byte, v uint32) {
	for i := range 4 {
		b[i] = byte(v >> (8 * i))
	}
}
