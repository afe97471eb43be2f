package checkpoint

import (
	"errors"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxQueue bounds what is read of one socket's queue, in bytes and messages.
const maxQueue = 32 << 20

// readQueue copies what a socket was sent and did not receive yet, and leaves it
// there. Messages after the first can only be looked at by means of SO_PEEK_OFF,
// which is put back.
func readQueue(fd int, k *Socket) error {
	if k.Listens {
		return nil
	}
	waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return err
	}
	stream := k.Type == unix.SOCK_STREAM
	if stream && waiting == 0 {
		return nil
	}
	buf := make([]byte, max(waiting+1, 64<<10))
	from := make([]byte, 128)
	control := make([]byte, 4096)
	flags := unix.MSG_PEEK | unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC
	if !stream { // of TCP it means something else
		flags |= unix.MSG_TRUNC
	}
	was, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	if err != nil && err != unix.EOPNOTSUPP {
		return err
	}
	if _, _, _, err := recvMessage(fd, buf, from, nil, flags); err == unix.EAGAIN || err == unix.ENOTCONN {
		return nil
	}
	creds, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED)
	if creds == 0 {
		control = nil
	}
	if !stream || creds != 0 || was >= 0 && err == nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0); err != nil {
			return err
		}
		defer func() { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, was) }()
	}
	for total := 0; !stream || total < waiting; {
		n, name, c, err := recvMessage(fd, buf, from, control, flags)
		switch {
		case err == unix.EAGAIN && !stream:
			return nil
		case err != nil:
			return err
		case n > len(buf): // it is longer: the same again
			buf = make([]byte, n)
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, total); err != nil {
				return err
			}
			continue
		case n == 0 && k.Type != unix.SOCK_DGRAM && k.Shutdown&shutReceive != 0 && total >= waiting: // the end
			return nil
		case n == 0 && stream:
			return errors.New("it is not what it was")
		}
		if total += n; total > maxQueue || len(k.Queue) > maxQueue>>10 {
			return errors.New("it is too much")
		}
		m := Message{Data: append([]byte{}, buf[:n]...), From: slices.Clone(trimAddress(name))}
		if m.Cred, err = credentials(c); err != nil {
			return err
		}
		k.Queue = append(k.Queue, m)
	}
	return nil
}

// credentials finds a sender's in what came with its data, and gives back
// descriptors that did.
func credentials(control []byte) (cred *Maker, err error) {
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		switch {
		case c.Header.Level != unix.SOL_SOCKET:
		case c.Header.Type == unix.SCM_CREDENTIALS:
			u, err := unix.ParseUnixCredentials(&c)
			if err != nil {
				return nil, err
			}
			if u.Pid != 0 { // else the sender gave none
				cred = &Maker{PID: int(u.Pid), UID: int(u.Uid), GID: int(u.Gid)}
			}
		case c.Header.Type == unix.SCM_RIGHTS || c.Header.Type == scmPidfd:
			for ; len(c.Data) >= 4; c.Data = c.Data[4:] {
				unix.Close(int(get64(c.Data[:4])))
			}
		}
	}
	return cred, nil
}

const scmPidfd = 4

// recvMessage is recvmsg(2), whose addresses it leaves as they are.
func recvMessage(fd int, buf, from, control []byte, flags int) (n int, name, controls []byte, err error) {
	io := unix.Iovec{Base: unsafe.SliceData(buf)}
	io.SetLen(len(buf))
	h := unix.Msghdr{Name: unsafe.SliceData(from), Namelen: uint32(len(from)), Iov: &io, Control: unsafe.SliceData(control)}
	h.SetIovlen(1)
	h.SetControllen(len(control))
	r, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), uintptr(flags))
	if errno != 0 {
		return 0, nil, nil, errno
	}
	return int(r), from[:min(len(from), int(h.Namelen))], control[:min(len(control), int(h.Controllen))], nil
}

// sendMessage is sendmsg(2) of one message, without waiting.
func sendMessage(fd int, m Message, to []byte) error {
	io := unix.Iovec{Base: unsafe.SliceData(m.Data)}
	io.SetLen(len(m.Data))
	h := unix.Msghdr{Name: unsafe.SliceData(to), Namelen: uint32(len(to)), Iov: &io}
	h.SetIovlen(1)
	var control []byte
	if m.Cred != nil {
		control = unix.UnixCredentials(&unix.Ucred{Pid: int32(m.Cred.PID), Uid: uint32(m.Cred.UID), Gid: uint32(m.Cred.GID)})
		h.Control = unsafe.SliceData(control)
		h.SetControllen(len(control))
	}
	n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if errno != 0 {
		return errno
	}
	if int(n) < len(m.Data) {
		return sendMessage(fd, Message{Data: m.Data[n:], Cred: m.Cred}, to)
	}
	return nil
}
