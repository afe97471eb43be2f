package demo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A silentFS is a FUSE file system with one file, whose server does not answer
// before it is told to: whoever looks at the file waits in the kernel.
//
// It speaks the protocol itself because of what "does not answer" has to mean:
// it does not even read the requests. A task that waits for one that was read
// cannot be killed. Nobody sees the mount: it is a descriptor, attached
// nowhere, and vanishes with the last process that has it. When the server's
// end closes, also by kill -9, the kernel fails all requests.
type silentFS struct {
	dev   *os.File
	mount *os.File
	serve sync.Once
}

const (
	silentFile    = "answer"
	silentContent = "Sorry to have kept you waiting.\n"
	silentNode    = 2
)

// newSilentFS mounts the file system. It needs CAP_SYS_ADMIN and Linux 5.2.
func newSilentFS() (*silentFS, error) {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	mount, err := mountDetached(dev)
	if err != nil {
		_ = unix.Close(dev)
		return nil, fmt.Errorf("a FUSE file system cannot be mounted: %w", err)
	}
	// Before the mount the device reports an error to poll, and os would not have it.
	fs := &silentFS{dev: os.NewFile(uintptr(dev), "/dev/fuse"), mount: os.NewFile(uintptr(mount), "mount")}
	if err := fs.handshake(); err != nil {
		fs.Close()
		return nil, fmt.Errorf("the FUSE file system does not come up: %w", err)
	}
	return fs, nil
}

// mountDetached makes a mount that is attached nowhere (see fsmount(2)).
func mountDetached(dev int) (int, error) {
	ctx, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctx)
	for _, p := range [][2]string{
		{"source", "freezer-demo"},
		{"fd", strconv.Itoa(dev)},
		{"rootmode", "40000"},
		{"user_id", strconv.Itoa(os.Getuid())},
		{"group_id", strconv.Itoa(os.Getgid())},
	} {
		if err := unix.FsconfigSetString(ctx, p[0], p[1]); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// asked says whether somebody waits for an answer.
func (fs *silentFS) asked() bool {
	conn, err := fs.dev.SyscallConn()
	if err != nil {
		return false
	}
	waiting := []unix.PollFd{{Events: unix.POLLIN}}
	_ = conn.Control(func(fd uintptr) {
		waiting[0].Fd = int32(fd)
		_, _ = unix.Poll(waiting, 0)
	})
	return waiting[0].Revents&unix.POLLIN != 0
}

// answer lets the server answer all requests, those that wait first.
func (fs *silentFS) answer() {
	fs.serve.Do(func() {
		go func() {
			for fs.step() == nil {
			}
		}()
	})
}

// Close ends the server. Whoever waits for it gets an error.
func (fs *silentFS) Close() error {
	return errors.Join(fs.dev.Close(), fs.mount.Close())
}

// Operations of linux/fuse.h.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opRelease     = 18
	opFlush       = 25
	opInit        = 26
	opInterrupt   = 36
	opBatchForget = 42
)

// handshake answers the request that the kernel sends first.
func (fs *silentFS) handshake() error {
	req, err := fs.read()
	if err != nil {
		return err
	}
	if req.Opcode != opInit {
		return fmt.Errorf("unexpected operation %d", req.Opcode)
	}
	return fs.reply(req, 0, fuse.InitOut{Major: 7, Minor: 31, MaxWrite: 4096})
}

// step answers one request.
func (fs *silentFS) step() error {
	req, err := fs.read()
	if err != nil {
		return err
	}
	switch req.Opcode {
	case opForget, opBatchForget, opInterrupt:
		return nil // these have no answer
	case opLookup:
		if req.name != silentFile {
			return fs.reply(req, unix.ENOENT, nil)
		}
		return fs.reply(req, 0, fuse.EntryOut{NodeId: silentNode, Attr: attr(silentNode)})
	case opGetattr:
		return fs.reply(req, 0, fuse.AttrOut{Attr: attr(req.NodeId)})
	case opOpen:
		return fs.reply(req, 0, fuse.OpenOut{OpenFlags: fuse.FOPEN_DIRECT_IO})
	case opRead:
		return fs.reply(req, 0, []byte(silentContent[min(req.offset, uint64(len(silentContent))):]))
	case opRelease, opFlush:
		return fs.reply(req, 0, nil)
	}
	return fs.reply(req, unix.ENOSYS, nil)
}

func attr(node uint64) fuse.Attr {
	a := fuse.Attr{Ino: node, Mode: unix.S_IFDIR | 0o755, Nlink: 1}
	if node == silentNode {
		a.Mode, a.Size = unix.S_IFREG|0o444, uint64(len(silentContent))
	}
	return a
}

// A request is what the kernel asks: the header, and of the rest what matters here.
type request struct {
	fuse.InHeader
	name   string // of a lookup
	offset uint64 // of a read
}

func (fs *silentFS) read() (req request, err error) {
	var buf [16 << 10]byte // the kernel insists on 8 KiB and wants room for MaxWrite
	n, err := fs.dev.Read(buf[:])
	if err != nil {
		return req, err
	}
	size, err := binary.Decode(buf[:n], binary.NativeEndian, &req.InHeader)
	if err != nil {
		return req, err
	}
	body := buf[size:n]
	switch {
	case req.Opcode == opLookup:
		req.name = unix.ByteSliceToString(body)
	case req.Opcode == opRead && len(body) >= 16: // fh, offset
		req.offset = binary.NativeEndian.Uint64(body[8:])
	}
	return req, nil
}

// reply writes the answer to one request. That the asker is gone is no error.
func (fs *silentFS) reply(req request, errno unix.Errno, body any) error {
	const header = 16
	msg := make([]byte, header, 256)
	if body != nil {
		var err error
		if msg, err = binary.Append(msg, binary.NativeEndian, body); err != nil {
			return err
		}
	}
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(msg[8:], req.Unique)
	if _, err := fs.dev.Write(msg); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
