package freezerfs

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// The server is root and could do all for everybody, so it must itself refuse
// what the kernel would. The kernel would do so for it (default_permissions),
// but it would ask for the attributes of everything on the way to a file, which
// takes twice as long, or remember them, so that mounts would disagree.

// A caller is the thread that waits for the answer to a request.
type caller struct {
	uid, gid uint32 // for file systems: its effective ones, as a rule
	tid      int    // 0 when it is in a PID namespace that we do not see
}

func callerOf(h *fuse.InHeader) caller { return caller{h.Uid, h.Gid, int(h.Pid)} }

// Kinds of access, as in access(2).
const (
	mayRead   = unix.R_OK
	mayWrite  = unix.W_OK
	maySearch = unix.X_OK
)

// may says, with EACCES, that the caller must not. The rules are those of
// path_resolution(7).
func (c caller) may(want uint32, st *unix.Stat_t) error {
	granted := st.Mode & 7
	switch {
	case c.uid == st.Uid:
		granted = st.Mode >> 6 & 7
	case c.gid == st.Gid:
		granted = st.Mode >> 3 & 7
	case st.Mode>>3&want != st.Mode&want && slices.Contains(c.more().groups, st.Gid):
		granted = st.Mode >> 3 & 7
	}
	if granted&want == want {
		return nil
	}
	has := c.more().capabilities
	if has.any(unix.CAP_DAC_OVERRIDE) || want&mayWrite == 0 && has.any(unix.CAP_DAC_READ_SEARCH) {
		return nil
	}
	return unix.EACCES
}

// owns says whether the caller may do what only the owner may.
func (c caller) owns(st *unix.Stat_t) bool {
	return c.uid == st.Uid || c.more().capabilities.any(unix.CAP_FOWNER)
}

// mayGive says whether the caller may change the owner and group of a file.
func (c caller) mayGive(st *unix.Stat_t, uid, gid uint32) bool {
	more := c.more()
	if more.capabilities.any(unix.CAP_CHOWN) {
		return true
	}
	return c.uid == st.Uid && uid == st.Uid &&
		(gid == st.Gid || gid == c.gid || slices.Contains(more.groups, gid))
}

// credentials are what a request does not say of its caller.
type credentials struct {
	groups       []uint32
	capabilities capabilities
}

type capabilities uint64

func (has capabilities) any(capability int) bool { return has>>capability&1 != 0 }

// more reads the rest of the caller's credentials, which cannot change: it waits
// for us. Of somebody whom we do not see they are none. Capabilities count
// only in the user namespace that the mount belongs to.
func (c caller) more() (more credentials) {
	text, err := kernfs.ReadFile(proc.Path(c.tid, "status"))
	if err != nil {
		return more
	}
	for _, word := range strings.Fields(proc.StatusField(text, "Groups")) {
		if gid, err := strconv.ParseUint(word, 10, 32); err == nil {
			more.groups = append(more.groups, uint32(gid))
		}
	}
	has, _ := strconv.ParseUint(proc.StatusField(text, "CapEff"), 16, 64)
	if has != 0 && sameUserNamespace(c.tid) {
		more.capabilities = capabilities(has)
	}
	return more
}

func sameUserNamespace(tid int) bool {
	ours, err := os.Readlink("/proc/self/ns/user")
	theirs, err2 := os.Readlink(proc.Path(tid, "ns/user"))
	return err == nil && err2 == nil && ours == theirs
}
