package checkpoint

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// A unixDiag is what the kernel tells of a unix socket by sock_diag(7).
type unixDiag struct {
	state    byte
	peer     uint64 // its inode; 0: none, or nobody has it open
	hasPeer  bool
	name     []byte // as in sun_path
	file     inode  // that its name made: its device in the kernel's form, and 32 bits of its number
	waiting  []uint64
	queue    int // of one that listens: connections that wait
	backlog  int // of the same
	shutdown int
}

// The states that sock_diag tells, which are those of TCP.
const (
	stateEstablished = 1
	stateClosed      = 7
	stateListens     = 10
)

// unixSockets asks for all unix sockets of this network namespace, by inode.
func unixSockets() (map[uint64]*unixDiag, error) {
	const (
		byFamily = 20 // SOCK_DIAG_BY_FAMILY
		show     = 1 | 2 | 4 | 8 | 16
	)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	req := make([]byte, 16+24) // struct nlmsghdr, struct unix_diag_req
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], byFamily)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[16] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[20:], ^uint32(0)) // in all states
	binary.NativeEndian.PutUint32(req[28:], show)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	all := map[uint64]*unixDiag{}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return nil, err
		}
		for b := buf[:n]; len(b) >= 16; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < 16 || length > len(b) {
				return nil, fmt.Errorf("%w: an answer of sock_diag", unix.EINVAL)
			}
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return all, nil
			case unix.NLMSG_ERROR:
				return nil, unix.Errno(-int32(binary.NativeEndian.Uint32(b[16:])))
			case byFamily:
				if length >= 32 {
					all[uint64(binary.NativeEndian.Uint32(b[20:]))] = parseUnixDiag(b[16:length])
				}
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

// parseUnixDiag reads a struct unix_diag_msg and its attributes.
func parseUnixDiag(b []byte) *unixDiag {
	d := &unixDiag{state: b[2]}
	word := func(v []byte) uint64 { return get64(v[:min(4, len(v))]) }
	for b = b[16:]; len(b) >= 4; {
		length := int(binary.NativeEndian.Uint16(b))
		if length < 4 || length > len(b) {
			break
		}
		v := b[4:length]
		switch binary.NativeEndian.Uint16(b[2:]) {
		case 0:
			d.name = append([]byte{}, v...)
		case 1:
			if len(v) >= 8 {
				dev := word(v[4:]) // major and minor as the kernel has them
				d.file = inode{unix.Mkdev(uint32(dev>>20), uint32(dev&(1<<20-1))), word(v)}
			}
		case 2:
			d.peer, d.hasPeer = word(v), true
		case 3:
			for ; len(v) >= 4; v = v[4:] {
				d.waiting = append(d.waiting, word(v))
			}
		case 4:
			if len(v) >= 8 {
				d.queue, d.backlog = int(word(v)), int(word(v[4:]))
			}
		case 6:
			if len(v) >= 1 {
				d.shutdown = int(v[0])
			}
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return d
}
