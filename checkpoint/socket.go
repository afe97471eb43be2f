package checkpoint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// A Socket is what a socket is besides an open file. Addresses are as bind(2)
// takes them; of a unix socket without a NUL at the end of a path.
type Socket struct {
	ID       uint64    `json:"id"` // by which others name it
	Family   int       `json:"family"`
	Type     int       `json:"type"`
	Protocol int       `json:"protocol,omitempty"`
	Name     []byte    `json:"name,omitempty"`
	Place    *Place    `json:"place,omitempty"`    // of the file to which a unix socket's name leads
	Peer     uint64    `json:"peer,omitempty"`     // the socket at its other end
	Accepted bool      `json:"accepted,omitempty"` // it has the name of the socket that accepted it
	Remote   []byte    `json:"remote,omitempty"`   // where it sends to, when that is no socket of the job's
	Listens  bool      `json:"listens,omitempty"`
	Backlog  int       `json:"backlog,omitempty"`
	Waiting  []uint64  `json:"waiting,omitempty"` // whose connections were not accepted yet
	Shutdown int       `json:"shutdown,omitempty"`
	Reset    bool      `json:"reset,omitempty"`   // its next call is told ECONNRESET
	Called   bool      `json:"called,omitempty"`  // it is the end of a TCP connection that made it
	Gone     bool      `json:"gone,omitempty"`    // its TCP connection has ended
	Outside  bool      `json:"outside,omitempty"` // its TCP connection was one to others
	Maker    *Maker    `json:"maker,omitempty"`
	UID      int       `json:"uid"` // of who made it
	GID      int       `json:"gid"`
	Options  []Option  `json:"options,omitempty"`
	Queue    []Message `json:"queue,omitempty"` // what was not received yet

	finished bool // the other end of its TCP connection sends no more
}

// A Place is a file that a bound unix socket made.
type Place struct {
	Path string `json:"path"`
	From string `json:"from"` // the directory in which the socket's name leads there
	Mode uint32 `json:"mode"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
}

// A Maker is whom SO_PEERCRED names.
type Maker struct {
	PID    int   `json:"pid"`
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups"`
}

// A Message is data in a socket's queue: a datagram, or a piece of a stream.
type Message struct {
	Data []byte `json:"data"`
	From []byte `json:"from,omitempty"` // the sender's address
	Cred *Maker `json:"cred,omitempty"` // what SCM_CREDENTIALS says of the sender
}

// borrow gives this program a descriptor of another process's open file.
func borrow(pid, fd int) (int, error) {
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(p)
	return unix.PidfdGetfd(p, fd, 0)
}

// socket looks at a socket. What is at its other end is seen when all are known.
func (s *survey) socket(p *Process, fd int, where string, st *unix.Stat_t, info []byte, f *File) {
	f.Kind = fileOutside // when it is a standard stream
	own, err := borrow(p.PID, fd)
	if err != nil {
		return // it was closed meanwhile
	}
	defer unix.Close(own)
	k := &Socket{ID: st.Ino, UID: int(st.Uid), GID: int(st.Gid)}
	for name, to := range map[int]*int{unix.SO_DOMAIN: &k.Family, unix.SO_TYPE: &k.Type, unix.SO_PROTOCOL: &k.Protocol} {
		if *to, err = unix.GetsockoptInt(own, unix.SOL_SOCKET, name); err != nil {
			s.hinder(p.PID, where, "it is a socket that cannot be asked: %v", err)
			return
		}
	}
	if k.Family != unix.AF_UNIX && !k.inet() {
		s.hinder(p.PID, where, "it is a socket of a family that is not carried: %s", familyName(k.Family))
		return
	}
	f.Kind, f.Socket = fileSocket, k
	s.files.pipes[inode{st.Dev, st.Ino}] = fmt.Sprintf("socket:[%d]", st.Ino)
	k.Name = address(own, unix.SYS_GETSOCKNAME)
	if n, _, _ := getOption(own, unix.SOL_SOCKET, unix.SO_GET_FILTER, nil); n > 0 {
		s.hinder(p.PID, where, "it is a socket with a filter")
	}
	if k.inet() {
		s.inetSocket(p, where, own, k)
	} else {
		s.unixSocket(p, where, own, info, k)
	}
	k.Options = readOptions(own, k)
}

// sockets finds out what is at the other ends of the job's sockets.
func (s *survey) sockets() {
	if err := s.tcpEnds(); err != nil {
		s.hinder(s.job.Processes[0].PID, "process", "%v", err)
	}
	if !slices.ContainsFunc(s.job.Files, func(f File) bool { return f.Kind == fileSocket && f.Socket.Family == unix.AF_UNIX }) {
		return
	}
	if err := s.unixEnds(); err != nil {
		s.hinder(s.job.Processes[0].PID, "process", "%v", err)
	}
}

// families are the names of those that are not carried.
var families = map[int]string{
	unix.AF_NETLINK: "netlink", unix.AF_PACKET: "packet", unix.AF_ALG: "cryptography", unix.AF_VSOCK: "vsock",
	unix.AF_BLUETOOTH: "Bluetooth", unix.AF_CAN: "CAN", unix.AF_XDP: "XDP", unix.AF_TIPC: "TIPC", unix.AF_SMC: "SMC",
}

func familyName(n int) string {
	if name := families[n]; name != "" {
		return name
	}
	return fmt.Sprint("number ", n)
}

// address asks for a socket's name or its peer's; nil when there is none.
func address(fd int, call uintptr) []byte {
	b := make([]byte, 128)
	length := uint32(len(b))
	if _, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&length))); errno != 0 {
		return nil
	}
	return trimAddress(b[:length])
}

// trimAddress leaves out what follows the end of a unix socket's path, and all
// when there is no name.
func trimAddress(b []byte) []byte {
	if len(b) <= 2 {
		return nil
	}
	if b[0] == unix.AF_UNIX && b[2] != 0 {
		return []byte(strings.TrimRight(string(b), "\x00"))
	}
	return b
}

// readSockets copies what is in the queues of stopped processes' sockets, and
// leaves it there.
func (s *survey) readSockets() {
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != fileSocket || s.files.open[i].pid == 0 {
			continue
		}
		o := s.files.open[i]
		fd, err := borrow(o.pid, o.fd)
		if err == nil {
			err = readQueue(fd, f.Socket)
			unix.Close(fd)
		}
		if err != nil {
			s.hinder(o.pid, fmt.Sprintf("descriptor %d", o.fd), "what waits in its socket cannot be read: %v", err)
		}
	}
	s.unixQueues()
	s.datagrams()
	if err := s.flows(); err != nil {
		s.hinder(s.job.Processes[0].PID, "process", "%v", err)
	}
}

// describe says what a socket is, for people.
func (k *Socket) describe() string {
	text := map[int]string{unix.AF_UNIX: "unix", unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6"}[k.Family] + " "
	text += map[int]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_SEQPACKET: "packet"}[k.Type] + " socket"
	if k.Name != nil {
		text += " " + showAddress(k.Name)
	}
	switch {
	case k.Listens:
		text += ", listening"
	case k.Outside:
		text += ", connected to " + showAddress(k.Remote) + " outside of the job"
	case k.Remote != nil:
		text += " to " + showAddress(k.Remote)
	case k.Gone:
		text += ", whose connection has ended"
	case k.Peer != 0:
		text += fmt.Sprintf(" %d, connected to %d", k.ID, k.Peer)
	}
	return text
}

// showAddress writes an address as people do.
func showAddress(a []byte) string {
	if path, ok := unixPath(a); ok {
		return path
	}
	if len(a) > 2 && a[0] == unix.AF_UNIX {
		return "@" + string(a[3:])
	}
	if host, port, ok := hostAndPort(a); ok {
		return netip.AddrPortFrom(host, port).String()
	}
	return fmt.Sprintf("%x", a)
}

// byID finds sockets by their IDs: their places in Files.
func (j *Job) byID() map[uint64]int {
	all := map[uint64]int{}
	for i := range j.Files {
		if f := &j.Files[i]; f.Kind == fileSocket && f.Socket != nil {
			all[f.Socket.ID] = i
		}
	}
	return all
}

// holdersOf lists the processes that have a file open.
func (s *survey) holdersOf(file int) (pids []*Process) {
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		for _, d := range p.Descriptors {
			if d.File == file {
				pids = append(pids, p)
				break
			}
		}
	}
	return pids
}

// alive says whether there is a process of that PID.
func alive(pid int) bool {
	_, err := proc.ReadStat(pid)
	return err == nil
}

func bind(fd int, name []byte) error { return withAddress(unix.SYS_BIND, fd, name) }

func connect(fd int, name []byte) error { return withAddress(unix.SYS_CONNECT, fd, name) }

func withAddress(call uintptr, fd int, name []byte) error {
	_, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(len(name)))
	return number(errno)
}
