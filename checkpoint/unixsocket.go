package checkpoint

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// The bits of what a socket has shut down.
const (
	shutReceive = 1
	shutSend    = 2
)

// unixSocket looks at a unix socket by itself.
func (s *survey) unixSocket(p *Process, where string, own int, info []byte, k *Socket) {
	if n := proc.StatusField(info, "scm_fds"); n != "" && n != "0" {
		s.hinder(p.PID, where, "descriptors are under way to it (SCM_RIGHTS): %s", n)
	}
	if _, _, _, err := recvMessage(own, make([]byte, 1), nil, nil, unix.MSG_OOB|unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil {
		s.hinder(p.PID, where, "it has a byte out of band (MSG_OOB)")
	}
	if path, ok := unixPath(k.Name); ok && slices.Contains(strings.Split(path, "/"), "..") {
		s.hinder(p.PID, where, "it is bound to a path with ..: %s", path)
	}
	k.Maker = maker(own)
	poll := []unix.PollFd{{Fd: int32(own)}}
	_, _ = unix.Poll(poll, 0)
	k.Reset = poll[0].Revents&unix.POLLERR != 0
}

// unixPath is the path to which a unix socket is bound.
func unixPath(a []byte) (path string, ok bool) {
	if len(a) < 3 || a[0] != unix.AF_UNIX || a[2] == 0 {
		return "", false
	}
	return string(a[2:]), true
}

// maker asks whom SO_PEERCRED names.
func maker(fd int) *Maker {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || u.Pid == 0 {
		return nil
	}
	m := &Maker{PID: int(u.Pid), UID: int(u.Uid), GID: int(u.Gid), Groups: []int{}}
	groups := make([]byte, 4*65536)
	if _, got, err := getOption(fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS, groups); err == nil {
		for ; len(got) >= 4; got = got[4:] {
			m.Groups = append(m.Groups, int(get64(got[:4])))
		}
	}
	return m
}

// unixEnds finds out to what the job's unix sockets are connected.
func (s *survey) unixEnds() error {
	all, err := unixSockets()
	if err != nil {
		return fmt.Errorf("asking for unix sockets: %w", err)
	}
	ours := s.job.byID()
	waits := map[uint64]uint64{} // whose connections wait, and at which socket
	for id, d := range all {
		for _, w := range d.waiting {
			waits[w] = id
		}
	}
	hidden := map[string]bool{}
	for i := range len(s.job.Files) {
		f := &s.job.Files[i]
		if f.Kind != fileSocket || f.Socket.Family != unix.AF_UNIX {
			continue
		}
		k, d := f.Socket, all[f.Socket.ID]
		hinder := func(format string, args ...any) {
			o := s.files.open[i]
			s.hinder(o.pid, "descriptor "+strconv.Itoa(o.fd), format, args...)
		}
		if d == nil {
			hinder("it is a socket that was closed meanwhile")
			continue
		}
		k.Shutdown = d.shutdown
		k.Place = s.placeOf(i, d)
		at, waiting := waits[k.ID]
		_, inside := ours[at]
		peer, known := ours[d.peer]
		switch {
		case d.state == stateListens:
			k.Listens, k.Backlog = true, d.backlog
			k.Waiting = d.waiting
			if d.queue != len(d.waiting) || slices.ContainsFunc(d.waiting, func(id uint64) bool { _, ok := ours[id]; return !ok }) {
				hinder("connections from outside of the group wait at %s", showAddress(k.Name))
			}
		case waiting && inside:
			if s.sent(i) {
				hinder("it has sent data on a connection that waits at %s", showAddress(s.job.Files[ours[at]].Socket.Name))
			}
		case waiting:
			f.Kind = fileOutside
		case d.hasPeer && d.peer == 0 && (k.Type == unix.SOCK_DGRAM || k.Shutdown == shutReceive|shutSend):
			s.ghost(i)
		case d.hasPeer && known:
			k.Peer = d.peer
			s.unixPair(hinder, k, s.job.Files[peer].Socket, all[d.peer])
		case d.hasPeer && k.Type == unix.SOCK_DGRAM && all[d.peer] != nil && len(all[d.peer].name) > 0 && all[d.peer].name[0] != '.':
			k.Remote = trimAddress(append([]byte{unix.AF_UNIX, 0}, all[d.peer].name...))
		case d.hasPeer:
			f.Kind = fileOutside
		}
		if f.Kind == fileOutside {
			f.Socket = nil
		} else if k.isHidden() && !k.Accepted {
			if hidden[string(k.Name)] {
				hinder("another socket, too, was bound to %s, which leads to neither", showAddress(k.Name))
			}
			hidden[string(k.Name)] = true
		}
	}
	return nil
}

// unixPair looks at a socket that is connected to another one of the job.
func (s *survey) unixPair(hinder func(string, ...any), k, peer *Socket, d *unixDiag) {
	mutual := d != nil && d.peer == k.ID
	_, path := unixPath(peer.Name)
	switch {
	case k.Type == unix.SOCK_DGRAM && (mutual && k.Maker != nil && peer.Maker != nil || peer.Name != nil && (!path || s.placeNow(peer, d))):
	case k.Type != unix.SOCK_DGRAM && mutual:
		// Of a connection made by connect(2) the end that was accepted has a name, and is
		// the younger one.
		if k.Accepted = k.Name != nil && (peer.Name == nil || peer.ID < k.ID); k.Accepted {
			k.Place = nil // it is that of the one which listened
		}
	default:
		hinder("it is connected to a socket that cannot be found by a name any more")
	}
}

// placeNow says whether a name still leads to its socket.
func (s *survey) placeNow(k *Socket, d *unixDiag) bool {
	i := s.job.byID()[k.ID]
	return s.placeOf(i, d) != nil
}

// placeOf finds the file that a socket's name made, if it is still there.
func (s *survey) placeOf(file int, d *unixDiag) *Place {
	path, ok := unixPath(s.job.Files[file].Socket.Name)
	if !ok || d == nil {
		return nil
	}
	for _, p := range s.holdersOf(file) {
		from := "/"
		if !filepath.IsAbs(path) {
			from = p.Directory
		}
		at := filepath.Join(from, path)
		var st unix.Stat_t
		if unix.Lstat(at, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK && st.Dev == d.file.dev && st.Ino&(1<<32-1) == d.file.ino {
			return &Place{Path: at, From: from, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid)}
		}
	}
	return nil
}

// sent says whether a socket has sent what the other end did not receive yet.
func (s *survey) sent(file int) bool {
	o := s.files.open[file]
	fd, err := borrow(o.pid, o.fd)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
	return err != nil || n > 0
}

// ghost adds the other end of a connection that was closed there: nobody has it
// open, so that it is closed as soon as it is made again.
func (s *survey) ghost(file int) {
	k := s.job.Files[file].Socket
	o := s.files.open[file]
	g := &Socket{ID: k.ID | 1<<63, Family: k.Family, Type: k.Type, Peer: k.ID, Maker: k.Maker}
	k.Peer = g.ID
	if fd, err := borrow(o.pid, o.fd); err == nil {
		g.Name = address(fd, unix.SYS_GETPEERNAME)
		unix.Close(fd)
	}
	if k.Type != unix.SOCK_DGRAM {
		k.Accepted = k.Name != nil && (g.Name == nil || s.listensAs(k.Name))
		g.Accepted = g.Name != nil && !k.Accepted
	}
	if k.Accepted {
		k.Place = nil
	}
	if k.Type == unix.SOCK_DGRAM && k.Maker == nil {
		g.Peer = 0 // it was not connected in turn
	}
	s.addGhost(g)
}

func (s *survey) addGhost(g *Socket) {
	s.job.Files = append(s.job.Files, File{Kind: fileSocket, Flags: unix.O_RDWR, Socket: g})
	s.files.open = append(s.files.open, openFile{})
}

// listensAs says whether a socket of the job listens under a name.
func (s *survey) listensAs(name []byte) bool {
	return slices.ContainsFunc(s.job.Files, func(f File) bool {
		return f.Kind == fileSocket && f.Socket.Listens && bytes.Equal(f.Socket.Name, name)
	})
}

// unixQueues finds what was sent by those who could not send it again.
func (s *survey) unixQueues() {
	ours := s.job.byID()
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != fileSocket || f.Socket.Family != unix.AF_UNIX {
			continue
		}
		for _, m := range f.Socket.Queue {
			if _, ok := s.job.senderTo(ours, f.Socket, m); !ok {
				s.hinder(s.files.open[i].pid, "descriptor "+strconv.Itoa(s.files.open[i].fd), "a datagram waits whose sender %s is not there any more", showAddress(m.From))
				break
			}
			if m.Cred != nil && !slices.ContainsFunc(s.job.Processes, func(p Process) bool { return p.PID == m.Cred.PID }) {
				s.hinder(s.files.open[i].pid, "descriptor "+strconv.Itoa(s.files.open[i].fd), "data waits whose sender, process %d, is not in the group", m.Cred.PID)
				break
			}
		}
	}
}

// senderTo finds a socket that can send a message of a unix socket's queue again:
// its place in Files, or -1 for any that has no name.
func (j *Job) senderTo(ours map[uint64]int, k *Socket, m Message) (file int, ok bool) {
	if k.inet() && k.Type == unix.SOCK_DGRAM {
		return j.inetSender(m)
	}
	if peer, ok := ours[k.Peer]; ok && (k.Type != unix.SOCK_DGRAM || bytes.Equal(m.From, j.Files[peer].Socket.Name)) {
		return peer, true
	}
	if k.Type != unix.SOCK_DGRAM || k.Peer != 0 || k.Remote != nil {
		return 0, false
	}
	_, path := unixPath(k.Name)
	reachable := k.Name != nil && (!path || k.Place != nil)
	for i := range j.Files {
		f := &j.Files[i]
		if f.Kind != fileSocket || f.Socket == nil || f.Socket.Family != unix.AF_UNIX || f.Socket.Type != unix.SOCK_DGRAM || !bytes.Equal(f.Socket.Name, m.From) {
			continue
		}
		if f.Socket.Peer == k.ID || m.From != nil && reachable {
			return i, true
		}
	}
	return -1, m.From == nil && reachable
}
