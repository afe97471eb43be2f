package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
)

// A TCP connection whose ends are both in the job is made again by connecting them,
// with the same addresses: what the two hosts of a connection agree on otherwise is
// seen by nobody when both are the same one. To read it of a live connection, it
// would have to be put into repair mode, in which it would be left if this program
// were killed. So nothing is carried that one end has sent and the other does not
// have yet: the other may read until there is none.
//
// A connection to others cannot be made again, and ends (Gone) when the restore is
// told so.

// The states of TCP that are known here, besides those of sock_diag.
const (
	stateFinWait1  = 4
	stateFinWait2  = 5
	stateCloseWait = 8
)

// connection looks at one end of a TCP connection. The end of one that has ended
// keeps what it has received, and is told of an error once.
func (s *survey) connection(hinder func(string, ...any), k *Socket, own int, info tcpInfo, events int16) {
	k.Reset = events&unix.POLLERR != 0
	k.Remote = address(own, unix.SYS_GETPEERNAME)
	closed := events&unix.POLLRDHUP != 0
	switch info.state {
	case stateClosed:
		k.Gone, k.Remote = true, nil
	case stateEstablished:
		if closed {
			k.Shutdown = shutReceive
		}
	case stateFinWait1, stateFinWait2:
		k.Shutdown = shutSend
		if closed {
			k.Shutdown |= shutReceive
		}
	case stateCloseWait:
		k.finished = true
	default:
		hinder("it is a TCP connection that is being opened or closed (state %d)", info.state)
	}
	if info.state != stateClosed && k.Reset {
		hinder("it has an error that it was not told yet")
	}
	if _, _, _, err := recvMessage(own, make([]byte, 1), nil, nil, unix.MSG_OOB|unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil {
		hinder("it has a byte out of band (MSG_OOB)")
	}
}

// endpoints are a connection's addresses as one of its ends sees them.
type endpoints struct{ local, remote netip.AddrPort }

func endpointsOf(k *Socket) (e endpoints, ok bool) {
	to := func(a []byte) netip.AddrPort {
		host, port, found := hostAndPort(a)
		ok = ok && found
		return netip.AddrPortFrom(host.Unmap(), port)
	}
	ok = true
	return endpoints{to(k.Name), to(k.Remote)}, ok
}

// tcpEnds finds out to what the job's TCP sockets are connected.
func (s *survey) tcpEnds() error {
	ends := map[endpoints]int{}
	for i := range s.job.Files {
		if f := &s.job.Files[i]; f.Kind == fileSocket && f.Socket.connected() {
			if e, ok := endpointsOf(f.Socket); ok {
				ends[e] = i
			}
		}
	}
	if len(ends) == 0 {
		return nil
	}
	open, err := openConnections()
	if err != nil {
		return err
	}
	for e, i := range ends {
		k := s.job.Files[i].Socket
		other := endpoints{e.remote, e.local}
		if peer, ok := ends[other]; ok {
			k.Peer = s.job.Files[peer].Socket.ID
			continue
		}
		if k.finished && e.local.Addr() == e.remote.Addr() && !open[other] {
			g := &Socket{ID: k.ID | 1<<63, Family: k.Family, Type: k.Type, Peer: k.ID, Name: k.Remote, Remote: k.Name}
			k.Peer = g.ID
			s.addGhost(g)
			continue
		}
		s.goesOut(i, "TCP connection to "+showAddress(k.Remote))
	}
	return nil
}

// connected says whether this is an end of a TCP connection.
func (k *Socket) connected() bool { return k.inet() && k.Type == unix.SOCK_STREAM && k.Remote != nil }

// goesOut notes a connection to others, which has ended when it is restored.
func (s *survey) goesOut(file int, what string) {
	k := s.job.Files[file].Socket
	k.Gone, k.Reset, k.Outside = true, true, true
	first, at := s.lowest(file)
	s.obstacles = append(s.obstacles, Obstacle{PID: first.PID, Command: first.Command, Where: "descriptor " + strconv.Itoa(at),
		What: "it goes outside of the group: " + what, Option: "--tcp-close"})
}

// openConnections are those of TCP that somebody has open.
func openConnections() (map[endpoints]bool, error) {
	all := map[endpoints]bool{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := kernfs.ReadFile(file)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[9] == "0" || f[0] == "sl" {
				continue
			}
			local, ok1 := procAddress(f[1])
			remote, ok2 := procAddress(f[2])
			if ok1 && ok2 {
				all[endpoints{local, remote}] = true
			}
		}
	}
	return all, nil
}

// procAddress reads an address as /proc/net/tcp has it: words of 4 bytes, each as a
// number of this machine.
func procAddress(text string) (netip.AddrPort, bool) {
	words, port, _ := strings.Cut(text, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(words) != 8 && len(words) != 32 {
		return netip.AddrPort{}, false
	}
	host := make([]byte, len(words)/2)
	for i := 0; i < len(words); i += 8 {
		n, err := strconv.ParseUint(words[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		put64Part(host[i/2:], uint32(n))
	}
	a, ok := netip.AddrFromSlice(host)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// flows finds connections of stopped processes in which something is under way.
// Each end says how much it has received, and how much of what it has sent the
// other has confirmed; of the two ends the one that called has sent one more, which
// is its call.
func (s *survey) flows() error {
	ids := s.job.byID()
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != fileSocket || !f.Socket.inet() || f.Socket.Type != unix.SOCK_STREAM {
			continue
		}
		if f.Socket.Listens {
			info, err := s.infoOf(i)
			if err == nil && info.waiting > 0 {
				s.mustRead(i, "%d connections wait at %s to be accepted", info.waiting, showAddress(f.Socket.Name))
			}
			continue
		}
		peer, ok := ids[f.Socket.Peer]
		if !ok || i > peer || s.files.open[i].pid == 0 || s.files.open[peer].pid == 0 {
			continue
		}
		a, err := s.infoOf(i)
		if err != nil {
			return err
		}
		b, err := s.infoOf(peer)
		if err != nil {
			return err
		}
		there, back := a.sent-b.received, b.sent-a.received
		if there+back > 1 {
			at := peer
			if back > there {
				at = i
			}
			s.mustRead(at, "%d bytes are under way to %s", there+back-1, showAddress(s.job.Files[at].Socket.Name))
		}
		f.Socket.Called, s.job.Files[peer].Socket.Called = there == 1, back == 1
	}
	return nil
}

func (s *survey) infoOf(file int) (tcpInfo, error) {
	o := s.files.open[file]
	fd, err := borrow(o.pid, o.fd)
	if err != nil {
		return tcpInfo{}, err
	}
	defer unix.Close(fd)
	return readTCPInfo(fd)
}

// callTime is how long a connection of this host to itself may take.
const callTime = 5 * time.Second

// makeConnections makes the TCP connections of the job, and those that have ended.
// It comes before the job's sockets listen, as one does here for each connection.
func (r *restorer) makeConnections() error {
	r.connections = map[uint64]int{}
	ids := r.job.byID()
	for i := range r.job.Files {
		f := &r.job.Files[i]
		if f.Kind != fileSocket || !f.Socket.inet() {
			continue
		}
		k := f.Socket
		var err error
		if peer, ok := ids[k.Peer]; ok && i < peer {
			p := r.job.Files[peer].Socket
			if p.Called {
				k, p = p, k
			}
			r.connections[k.ID], r.connections[p.ID], err = connected(k, p)
		} else if k.Gone {
			r.connections[k.ID], err = ended(k)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", k.describe(), err)
		}
	}
	return nil
}

// connected makes a connection from a to b, and returns its ends.
func connected(a, b *Socket) (from, to int, err error) {
	server, err := newInet(b)
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(server)
	if err = unix.SetsockoptInt(server, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = bind(server, b.Name)
	}
	if err == nil {
		err = unix.Listen(server, 16)
	}
	if err == unix.EADDRINUSE {
		err = portTaken(b)
	}
	if err != nil {
		return -1, -1, err
	}
	from, err = newInet(a)
	if err != nil {
		return -1, -1, err
	}
	if err = bindAgain(from, a.Name); err == nil {
		err = connect(from, a.Remote)
	}
	if err == nil {
		to, err = acceptFrom(server, a.Name)
	}
	if err != nil {
		unix.Close(from)
		return -1, -1, fmt.Errorf("calling from %s: %w", showAddress(a.Name), err)
	}
	return from, to, nil
}

// bindAgain binds a socket that is to call, whatever is left of the connection that
// had its port, and in the way of nobody who is to listen there.
func bindAgain(fd int, name []byte) error {
	repairs := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON) == nil // it forces a bind
	err := bind(fd, name)
	if repairs {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP))
	}
	return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
}

// acceptFrom accepts the connection of one caller, and ends those of others.
func acceptFrom(server int, caller []byte) (int, error) {
	want, _, _ := hostAndPort(caller)
	_, port, _ := hostAndPort(caller)
	for begun := time.Now(); time.Since(begun) < callTime; {
		poll := []unix.PollFd{{Fd: int32(server), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, int(callTime.Milliseconds())); err != nil && err != unix.EINTR {
			return -1, err
		} else if n <= 0 {
			continue
		}
		fd, _, err := unix.Accept4(server, unix.SOCK_CLOEXEC)
		if err != nil {
			return -1, err
		}
		host, p, _ := hostAndPort(address(fd, unix.SYS_GETPEERNAME))
		if p == port && (host.Unmap() == want.Unmap()) {
			return fd, nil
		}
		unix.Close(fd)
	}
	return -1, unix.ETIMEDOUT
}

// ended makes a connection, to nobody, that has ended: with all that it had
// received, and then with its end, or, when it was reset, an error before that.
func ended(k *Socket) (int, error) {
	local := loopback(k)
	server, err := unix.Socket(k.Family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(server)
	if err := errors.Join(bind(server, local), unix.Listen(server, 16)); err != nil {
		return -1, err
	}
	fd, err := newInet(k)
	if err != nil {
		return -1, err
	}
	err = bind(fd, local)
	if err == nil {
		err = connect(fd, address(server, unix.SYS_GETSOCKNAME))
	}
	other := -1
	if err == nil {
		other, err = acceptFrom(server, address(fd, unix.SYS_GETSOCKNAME))
	}
	if err == nil {
		defer unix.Close(other)
		_ = unix.SetsockoptInt(other, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, enough)
		for _, m := range k.Queue {
			err = errors.Join(err, sendMessage(other, m, nil))
		}
	}
	if err == nil {
		err = untilReceived(other, fd, len(bytes.Join(dataOf(k.Queue), nil)))
	}
	if err == nil && k.Reset {
		err = unix.SetsockoptLinger(other, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	} else if err == nil {
		err = errors.Join(unix.Shutdown(other, unix.SHUT_WR), unix.Shutdown(fd, unix.SHUT_WR))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func dataOf(queue []Message) (all [][]byte) {
	for _, m := range queue {
		all = append(all, m.Data)
	}
	return all
}

// untilReceived waits until one end has received so much of the other.
func untilReceived(from, to, length int) error {
	for begun := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		n, err := unix.IoctlGetInt(to, unix.TIOCINQ)
		if err != nil || n == length {
			return err
		}
		if time.Since(begun) > callTime {
			left, _ := unix.IoctlGetInt(from, unix.TIOCOUTQ)
			return fmt.Errorf("of %d bytes that it had received it took %d again (%d are left)", length, n, left)
		}
	}
}

// loopback is an address of this host, with any port, of the kind that a socket had.
func loopback(k *Socket) []byte {
	if k.Family == unix.AF_INET {
		a := make([]byte, unix.SizeofSockaddrInet4)
		a[0], a[4], a[7] = unix.AF_INET, 127, 1
		return a
	}
	a := make([]byte, unix.SizeofSockaddrInet6)
	a[0] = unix.AF_INET6
	a[23] = 1
	if host, _, _ := hostAndPort(k.Name); host.Is4In6() {
		a[18], a[19], a[20] = 255, 255, 127
	}
	return a
}
