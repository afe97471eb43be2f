package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

func (k *Socket) inet() bool { return k.Family == unix.AF_INET || k.Family == unix.AF_INET6 }

// protocol is the one of the socket's family and type that is carried.
func (k *Socket) protocol() int {
	switch {
	case k.Family == unix.AF_UNIX:
		return unix.AF_UNIX
	case k.Type == unix.SOCK_STREAM:
		return unix.IPPROTO_TCP
	}
	return unix.IPPROTO_UDP
}

// hostAndPort reads an internet address.
func hostAndPort(a []byte) (host netip.Addr, port uint16, ok bool) {
	switch {
	case len(a) == unix.SizeofSockaddrInet4 && a[0] == unix.AF_INET:
		host = netip.AddrFrom4([4]byte(a[4:]))
	case len(a) == unix.SizeofSockaddrInet6 && a[0] == unix.AF_INET6:
		host = netip.AddrFrom16([16]byte(a[8:]))
	default:
		return host, 0, false
	}
	return host, binary.BigEndian.Uint16(a[2:]), true
}

// tcpInfo is the beginning of a struct tcp_info.
type tcpInfo struct {
	state   byte
	waiting int // of one that listens: connections that were not accepted yet
	backlog int
	// In bytes, but for a call and an end, which count as one.
	sent, received uint64
}

func readTCPInfo(fd int) (tcpInfo, error) {
	b := make([]byte, 248)
	_, got, err := getOption(fd, unix.SOL_TCP, unix.TCP_INFO, b)
	if err != nil || len(got) < 136 {
		return tcpInfo{}, fmt.Errorf("its state: %w", errors.Join(err, unix.EINVAL))
	}
	left, _ := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
	return tcpInfo{state: b[0], waiting: int(get64(b[24:28])), backlog: int(get64(b[28:32])),
		sent: get64(b[120:]) + uint64(left), received: get64(b[128:])}, nil
}

// inetSocket looks at a TCP or UDP socket.
func (s *survey) inetSocket(p *Process, where string, own int, k *Socket) {
	hinder := func(format string, args ...any) { s.hinder(p.PID, where, format, args...) }
	if k.Protocol != k.protocol() || k.Type != unix.SOCK_STREAM && k.Type != unix.SOCK_DGRAM {
		hinder("it is a socket whose protocol is not carried: %d", k.Protocol)
		return
	}
	if host, port, ok := hostAndPort(k.Name); ok && port == 0 && host.IsUnspecified() {
		k.Name = nil
	}
	poll := []unix.PollFd{{Fd: int32(own), Events: unix.POLLRDHUP}}
	_, _ = unix.Poll(poll, 0)
	if k.Type == unix.SOCK_DGRAM {
		k.Remote = address(own, unix.SYS_GETPEERNAME)
		if poll[0].Revents&unix.POLLERR != 0 {
			hinder("it has an error that it was not told yet")
		}
		if n, err := unix.GetsockoptInt(own, unix.SOL_UDP, unix.UDP_ENCAP); err == nil && n != 0 {
			hinder("it is a socket of a tunnel")
		}
		return
	}
	if n, _, err := getOption(own, unix.SOL_TCP, unix.TCP_ULP, make([]byte, 16)); err == nil && n > 0 {
		hinder("it has a protocol above TCP in the kernel (TLS)")
	}
	info, err := readTCPInfo(own)
	switch {
	case err != nil:
		hinder("%v", err)
	case info.state == stateListens:
		k.Listens, k.Backlog = true, info.backlog
	case info.state != stateClosed || poll[0].Revents&unix.POLLRDHUP != 0:
		s.connection(hinder, k, own, info, poll[0].Revents)
	}
}

// newInet makes a socket without a name. Some of its options must come before that.
func newInet(k *Socket) (int, error) {
	fd, err := unix.Socket(k.Family, k.Type|unix.SOCK_CLOEXEC, k.Protocol)
	if err != nil {
		return -1, err
	}
	if err := setOptions(fd, k); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// portTaken is the error of an address that cannot be had.
func portTaken(k *Socket) error {
	if k.Type == unix.SOCK_STREAM {
		return fmt.Errorf("%s is taken, or it is less than a minute since it was used without SO_REUSEADDR", showAddress(k.Name))
	}
	return fmt.Errorf("%s is taken", showAddress(k.Name))
}

// reopenInet makes a TCP or UDP socket again, but for what finish does.
func reopenInet(k *Socket) (int, error) {
	fd, err := newInet(k)
	if err != nil {
		return -1, err
	}
	// What is left of connections to the port is no reason not to get it.
	if k.Type == unix.SOCK_STREAM {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil && k.Name != nil {
		err = bind(fd, k.Name)
	}
	if err == nil && k.Listens {
		err = unix.Listen(fd, k.Backlog)
	}
	if err == unix.EADDRINUSE {
		err = portTaken(k)
	}
	if err == nil && k.Remote != nil {
		err = connect(fd, k.Remote)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// inetSender finds a socket of the job that can send a datagram again, which a
// socket of the job's has received.
func (j *Job) inetSender(m Message) (file int, ok bool) {
	host, port, ok := hostAndPort(m.From)
	if !ok {
		return 0, false
	}
	for i := range j.Files {
		f := &j.Files[i]
		if f.Kind != fileSocket || f.Socket == nil || !f.Socket.inet() || f.Socket.Type != unix.SOCK_DGRAM {
			continue
		}
		h, p, _ := hostAndPort(f.Socket.Name)
		if p == port && (h.Unmap() == host.Unmap() || h.IsUnspecified() && host.Unmap().IsLoopback()) {
			return i, true
		}
	}
	return 0, false
}

// reachedBy is the address at which a socket gets what another one sends from an
// address.
func (k *Socket) reachedBy(other *Socket, from []byte) []byte {
	host, port, _ := hostAndPort(k.Name)
	if host.IsUnspecified() {
		host, _, _ = hostAndPort(from)
	}
	a := make([]byte, unix.SizeofSockaddrInet4)
	if other.Family == unix.AF_INET6 {
		a = make([]byte, unix.SizeofSockaddrInet6)
	}
	put64(a[:2], uint64(other.Family))
	binary.BigEndian.PutUint16(a[2:], port)
	if b := host.As16(); other.Family == unix.AF_INET6 {
		copy(a[8:24], b[:])
	} else {
		copy(a[4:8], b[12:])
	}
	return a
}

// datagrams finds those that can only be read by their receivers.
func (s *survey) datagrams() {
	for i := range s.job.Files {
		f := &s.job.Files[i]
		if f.Kind != fileSocket || !f.Socket.inet() || f.Socket.Type != unix.SOCK_DGRAM {
			continue
		}
		for _, m := range f.Socket.Queue {
			if _, ok := s.job.inetSender(m); !ok {
				s.mustRead(i, "a datagram of %s waits at %s", showAddress(m.From), showAddress(f.Socket.Name))
				break
			}
		}
	}
}
