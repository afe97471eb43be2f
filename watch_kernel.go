package freezer

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// An inotifyEvent is one record of inotify(7).
type inotifyEvent struct {
	watch int
	mask  uint32
	name  string
	size  int // of the record
}

func parseInotify(text []byte) inotifyEvent {
	n := int(binary.NativeEndian.Uint32(text[12:]))
	rest := text[unix.SizeofInotifyEvent:]
	return inotifyEvent{
		watch: int(int32(binary.NativeEndian.Uint32(text))),
		mask:  binary.NativeEndian.Uint32(text[4:]),
		name:  unix.ByteSliceToString(rest[:min(n, len(rest))]),
		size:  unix.SizeofInotifyEvent + n,
	}
}

// The proc connector, which tells root of all forks and exits; see the kernel's
// linux/cn_proc.h and linux/connector.h.
const (
	connectorProc = 1 // CN_IDX_PROC and CN_VAL_PROC
	procListen    = 1 // PROC_CN_MCAST_LISTEN
	procFork      = 0x00000001
	procExit      = 0x80000000
	headers       = unix.NLMSG_HDRLEN + 20 // nlmsghdr and cn_msg
	procEventData = headers + 16           // after what, cpu and time
)

// listenForks opens the proc connector; -1 when it is not for the caller, who
// must be root in the first user and PID namespaces.
func listenForks() int {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return -1
	}
	if unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: connectorProc}) != nil || !inFirstNamespace() {
		unix.Close(fd)
		return -1
	}
	msg := make([]byte, headers+4)
	order := binary.NativeEndian
	order.PutUint32(msg, uint32(len(msg)))
	order.PutUint16(msg[4:], unix.NLMSG_DONE)
	order.PutUint32(msg[12:], uint32(os.Getpid()))
	order.PutUint32(msg[16:], connectorProc)
	order.PutUint32(msg[20:], connectorProc)
	order.PutUint16(msg[32:], 4) // the length of what follows
	order.PutUint32(msg[headers:], procListen)
	if unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// inFirstNamespace says whether the PIDs that the kernel tells are ours.
func inFirstNamespace() bool {
	const initPIDNamespace = "pid:[4026531836]" // PROC_PID_INIT_INO
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns == initPIDNamespace
}

// readForks marks the groups in which a process was forked or ended.
func (w *watcher) readForks() {
	if w.forks < 0 {
		return
	}
	var buf [16 << 10]byte
	for {
		n, err := unix.Read(w.forks, buf[:])
		if err == unix.ENOBUFS { // more than it can keep: some were lost
			w.markAll()
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		if n < procEventData+16 {
			continue
		}
		what := binary.NativeEndian.Uint32(buf[headers:])
		// Of a fork, the parent's TID and PID come first; of an exit, the task's.
		tid, pid := int(binary.NativeEndian.Uint32(buf[procEventData:])), int(binary.NativeEndian.Uint32(buf[procEventData+4:]))
		if x := w.groupOf[pid]; x != nil && (what == procFork || what == procExit && tid == pid) {
			w.mark(x)
		}
	}
}
