package checkpoint

import (
	"bytes"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Option is one of setsockopt(2).
type Option struct {
	Level int    `json:"level"`
	Name  int    `json:"name"`
	Value []byte `json:"value"`
}

// An optionKind is an option that is carried: its value is read, and set where a
// new socket has another one.
type optionKind struct {
	level, name, size int
	set               int // the option that sets it, when that is another one
}

// The numbers of options that x/sys does not have.
const (
	soRcvPriority = 82
	soPassRights  = 83

	ipLocalPortRange = 51
	ipv6FlowinfoSend = 33
)

// socketOptions are those that sockets of all families may have. Buffers come
// before their lock, which setting one changes.
var socketOptions = []optionKind{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR, 4, 0},
	{unix.SOL_SOCKET, unix.SO_DONTROUTE, 4, 0},
	{unix.SOL_SOCKET, unix.SO_BROADCAST, 4, 0},
	{unix.SOL_SOCKET, unix.SO_SNDBUF, 4, unix.SO_SNDBUFFORCE},
	{unix.SOL_SOCKET, unix.SO_RCVBUF, 4, unix.SO_RCVBUFFORCE},
	{unix.SOL_SOCKET, unix.SO_BUF_LOCK, 4, 0},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 4, 0},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 4, 0},
	{unix.SOL_SOCKET, unix.SO_NO_CHECK, 4, 0},
	{unix.SOL_SOCKET, unix.SO_PRIORITY, 4, 0},
	{unix.SOL_SOCKET, unix.SO_LINGER, 8, 0},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT, 4, 0},
	{unix.SOL_SOCKET, unix.SO_PASSCRED, 4, 0},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 4, 0},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, 16, 0},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, 16, 0},
	{unix.SOL_SOCKET, unix.SO_BINDTODEVICE, 16, 0},
	{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 8, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING, 8, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP, 4, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 4, 0},
	{unix.SOL_SOCKET, unix.SO_PASSSEC, 4, 0},
	{unix.SOL_SOCKET, unix.SO_MARK, 4, 0},
	{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 4, 0},
	{unix.SOL_SOCKET, unix.SO_PEEK_OFF, 4, 0},
	{unix.SOL_SOCKET, unix.SO_NOFCS, 4, 0},
	{unix.SOL_SOCKET, unix.SO_SELECT_ERR_QUEUE, 4, 0},
	{unix.SOL_SOCKET, unix.SO_BUSY_POLL, 4, 0},
	{unix.SOL_SOCKET, unix.SO_ZEROCOPY, 4, 0},
	{unix.SOL_SOCKET, unix.SO_RCVMARK, 4, 0},
	{unix.SOL_SOCKET, unix.SO_PASSPIDFD, 4, 0},
	{unix.SOL_SOCKET, soRcvPriority, 4, 0},
	{unix.SOL_SOCKET, soPassRights, 4, 0},
}

// levelOptions are those that a level has besides, each a number of 4 bytes.
var levelOptions = map[int][]int{
	unix.SOL_IP: {unix.IP_TOS, unix.IP_TTL, unix.IP_RECVOPTS, unix.IP_RETOPTS, unix.IP_PKTINFO, unix.IP_MTU_DISCOVER, unix.IP_RECVERR,
		unix.IP_RECVTTL, unix.IP_RECVTOS, unix.IP_FREEBIND, unix.IP_PASSSEC, unix.IP_TRANSPARENT, unix.IP_RECVORIGDSTADDR, unix.IP_MINTTL,
		unix.IP_CHECKSUM, unix.IP_BIND_ADDRESS_NO_PORT, unix.IP_RECVFRAGSIZE, unix.IP_UNICAST_IF, ipLocalPortRange},
	unix.SOL_IPV6: {unix.IPV6_V6ONLY, unix.IPV6_UNICAST_HOPS, unix.IPV6_MTU_DISCOVER, unix.IPV6_RECVERR, ipv6FlowinfoSend, unix.IPV6_RECVPKTINFO, unix.IPV6_RECVHOPLIMIT,
		unix.IPV6_RECVRTHDR, unix.IPV6_RECVHOPOPTS, unix.IPV6_RECVDSTOPTS, unix.IPV6_RECVPATHMTU, unix.IPV6_DONTFRAG, unix.IPV6_RECVTCLASS,
		unix.IPV6_TCLASS, unix.IPV6_AUTOFLOWLABEL, unix.IPV6_ADDR_PREFERENCES, unix.IPV6_MINHOPCOUNT, unix.IPV6_RECVORIGDSTADDR,
		unix.IPV6_TRANSPARENT, unix.IPV6_UNICAST_IF, unix.IPV6_RECVFRAGSIZE, unix.IPV6_FREEBIND},
	unix.SOL_TCP: {unix.TCP_NODELAY, unix.TCP_CORK, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT, unix.TCP_SYNCNT, unix.TCP_LINGER2,
		unix.TCP_DEFER_ACCEPT, unix.TCP_USER_TIMEOUT, unix.TCP_THIN_LINEAR_TIMEOUTS, unix.TCP_FASTOPEN,
		unix.TCP_FASTOPEN_CONNECT, unix.TCP_FASTOPEN_NO_COOKIE, unix.TCP_NOTSENT_LOWAT, unix.TCP_SAVE_SYN, unix.TCP_INQ},
	unix.SOL_UDP: {unix.UDP_CORK, unix.UDP_NO_CHECK6_TX, unix.UDP_NO_CHECK6_RX, unix.UDP_SEGMENT, unix.UDP_GRO},
}

// multicastOptions are those that only sockets for datagrams have besides.
var multicastOptions = map[int][]int{
	unix.SOL_IP:   {unix.IP_MULTICAST_IF, unix.IP_MULTICAST_TTL, unix.IP_MULTICAST_LOOP, unix.IP_MULTICAST_ALL},
	unix.SOL_IPV6: {unix.IPV6_MULTICAST_IF, unix.IPV6_MULTICAST_HOPS, unix.IPV6_MULTICAST_LOOP, unix.IPV6_MULTICAST_ALL},
}

// carried are the options of a socket's family and type.
func carried(k *Socket) []optionKind {
	all := slices.Clone(socketOptions)
	for _, level := range k.levels() {
		if level == unix.SOL_TCP {
			all = append(all, optionKind{unix.SOL_TCP, unix.TCP_CONGESTION, 16, 0})
			if k.Remote == nil && !k.Gone { // they are limits here, else what was agreed on
				all = append(all, optionKind{unix.SOL_TCP, unix.TCP_MAXSEG, 4, 0}, optionKind{unix.SOL_TCP, unix.TCP_WINDOW_CLAMP, 4, 0})
			}
		}
		names := levelOptions[level]
		if k.Type == unix.SOCK_DGRAM {
			names = slices.Concat(names, multicastOptions[level])
		}
		for _, name := range names {
			all = append(all, optionKind{level, name, 4, 0})
		}
	}
	return all
}

// levels are the protocols whose options a socket has.
func (k *Socket) levels() (all []int) {
	switch k.Family {
	case unix.AF_INET:
		all = []int{unix.SOL_IP}
	case unix.AF_INET6:
		all = []int{unix.SOL_IPV6, unix.SOL_IP}
	default:
		return nil
	}
	if k.Type == unix.SOCK_STREAM {
		return append(all, unix.SOL_TCP)
	}
	return append(all, unix.SOL_UDP)
}

// readOptions reads a socket's options. What its family does not have is left out.
func readOptions(fd int, k *Socket) (all []Option) {
	for _, o := range carried(k) {
		value := make([]byte, o.size)
		if _, got, err := getOption(fd, o.level, o.name, value); err == nil && len(got) > 0 {
			all = append(all, Option{o.level, o.name, got})
		}
	}
	return all
}

// setOptions gives a socket the options that it does not have yet.
func setOptions(fd int, k *Socket) error {
	kinds := carried(k)
	for _, o := range k.Options {
		kind := optionOf(kinds, o)
		now := make([]byte, kind.size)
		if _, got, err := getOption(fd, o.Level, o.Name, now); err != nil || bytes.Equal(got, o.Value) {
			continue
		}
		name, value := o.Name, o.Value
		if kind.set != 0 { // the kernel doubles what it is told of a buffer
			name = kind.set
			value = make([]byte, 4)
			put64(value, get64(o.Value)/2)
		}
		err := setOption(fd, o.Level, name, value)
		if err == unix.EPERM && kind.set != 0 { // within the bounds that all have
			err = setOption(fd, o.Level, o.Name, value)
		}
		if err != nil {
			return fmt.Errorf("the option %d of level %d: %w", o.Name, o.Level, err)
		}
	}
	return nil
}

// optionOf is the kind of an option; nil when it is none that is carried.
func optionOf(kinds []optionKind, o Option) *optionKind {
	for _, kind := range kinds {
		if kind.level == o.Level && kind.name == o.Name && len(o.Value) > 0 && len(o.Value) <= kind.size {
			return &kind
		}
	}
	return nil
}

// getOption is getsockopt(2). n is how long the value is, also where there is no
// room for it.
func getOption(fd, level, name int, value []byte) (n int, got []byte, err error) {
	length := uint32(len(value))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(unsafe.Pointer(&length)), 0)
	return int(length), value[:min(len(value), int(length))], number(errno)
}

func setOption(fd, level, name int, value []byte) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0)
	return number(errno)
}
