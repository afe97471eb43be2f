package checkpoint

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// checkSockets says what is wrong with the sockets of an image.
func (j *Job) checkSockets() error {
	ids := map[uint64]*Socket{}
	for i := range j.Files {
		f := &j.Files[i]
		if (f.Kind == fileSocket) != (f.Socket != nil) {
			return damaged("file %d is a socket by half", i)
		}
		if k := f.Socket; k != nil {
			if ids[k.ID] != nil || k.ID == 0 {
				return damaged("two sockets are %d", k.ID)
			}
			ids[k.ID] = k
		}
	}
	pids := map[int]bool{}
	for i := range j.Processes {
		pids[j.Processes[i].PID] = true
	}
	for id, k := range ids {
		if slices.ContainsFunc(k.Queue, func(m Message) bool { return m.Cred != nil && !pids[m.Cred.PID] }) {
			return damaged("what waits at socket %d is of nobody", id)
		}
		if !k.possible() || !k.connects(ids) {
			return damaged("socket %d cannot be", id)
		}
	}
	return nil
}

// possible says whether a socket is possible, by itself.
func (k *Socket) possible() bool {
	kinds := carried(k)
	name := func(a []byte) bool { return a == nil || len(a) > 2 && len(a) <= 110 && int(get64(a[:2])) == k.Family }
	if k.Family != unix.AF_UNIX && !k.inet() || k.Protocol != 0 && k.Protocol != k.protocol() || k.UID < 0 || k.GID < 0 ||
		k.inet() && (k.Type == unix.SOCK_SEQPACKET || !wholeAddress(k.Name) || !wholeAddress(k.Remote) || k.Place != nil || k.Maker != nil) ||
		k.Type != unix.SOCK_STREAM && k.Type != unix.SOCK_DGRAM && k.Type != unix.SOCK_SEQPACKET ||
		!name(k.Name) || !name(k.Remote) || k.Shutdown < 0 || k.Shutdown > shutReceive|shutSend || k.Backlog < 0 || len(k.Options) > len(kinds) {
		return false
	}
	path, isPath := unixPath(k.Name)
	if isPath && (strings.Contains(path, "\x00") || slices.Contains(strings.Split(path, "/"), "..")) {
		return false
	}
	if p := k.Place; p != nil && (!isPath || k.Accepted || !clean(p.Path) || !clean(p.From) || p.Mode > 0o7777 || p.UID < 0 || p.GID < 0 || filepath.Join(p.From, path) != p.Path) {
		return false
	}
	return k.Maker.possible() &&
		!slices.ContainsFunc(k.Options, func(o Option) bool { return optionOf(kinds, o) == nil }) &&
		!slices.ContainsFunc(k.Queue, func(m Message) bool { return !name(m.From) || !m.Cred.possible() })
}

// wholeAddress says whether an internet address has its length; nil will do.
func wholeAddress(a []byte) bool {
	return a == nil || len(a) == unix.SizeofSockaddrInet4 && a[0] == unix.AF_INET || len(a) == unix.SizeofSockaddrInet6 && a[0] == unix.AF_INET6
}

func (m *Maker) possible() bool {
	return m == nil || m.PID >= 0 && m.PID <= maxPID && m.UID >= 0 && m.GID >= 0 && len(m.Groups) <= 65536
}

// connects says whether a socket can be connected to those that it names.
func (k *Socket) connects(ids map[uint64]*Socket) bool {
	stream := k.Type != unix.SOCK_DGRAM
	if k.Peer != 0 {
		p := ids[k.Peer]
		if p == nil || p == k || p.Type != k.Type || p.inet() != k.inet() || k.Listens || k.Gone || (k.Remote != nil) != k.inet() || k.inet() && k.Name == nil ||
			stream && (p.Peer != k.ID || p.Accepted && k.Accepted) {
			return false
		}
	}
	if k.inet() && stream && k.Remote != nil && k.Peer == 0 && !k.Gone || (k.Gone || k.Outside || k.Called) && !(k.inet() && stream) || k.Outside && !k.Gone {
		return false
	}
	if k.Accepted && (!stream || k.Peer == 0 || k.Name == nil) || (k.Listens || len(k.Waiting) > 0) && (!stream || !k.Listens || k.Name == nil) {
		return false
	}
	return !slices.ContainsFunc(k.Waiting, func(id uint64) bool {
		c := ids[id]
		return c == nil || c.Type != k.Type || c.Family != k.Family || c.Peer != 0 || c.Listens
	})
}
