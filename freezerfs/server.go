package freezerfs

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A connection reads the kernel's requests and has them answered.
//
// The library's own server has three threads that wait for requests. They take
// turns, each on the processor where it was last, and that takes a request from
// 19 to 30 µs, and one of several from 130 to 300 (medians, two processors).
// Here one thread waits and answers. There is another as soon as it may take
// longer: at once when somebody wants to freeze, else after a millisecond or two.
type connection struct {
	fd       int
	protocol *fuse.ProtocolServer
	loops    sync.WaitGroup
	idle     atomic.Int32  // loops that wait for a request
	begun    atomic.Uint64 // requests
	busy     chan struct{} // tells overlook that there are some
}

// serve returns when the mount is gone.
func (c *connection) serve() {
	c.busy = make(chan struct{}, 1)
	go c.overlook()
	c.loops.Add(1)
	go c.loop()
	c.loops.Wait()
	close(c.busy)
	unix.Close(c.fd)
}

// more starts another loop, unless there is one that waits.
func (c *connection) more() {
	if c.idle.Load() == 0 {
		c.loops.Add(1)
		go c.loop()
	}
}

// loop answers requests until the mount is gone, or another loop waits for them.
func (c *connection) loop() {
	defer c.loops.Done()
	in, out := make([]byte, maxMessage), make([]byte, maxMessage)
	for {
		c.idle.Add(1)
		n, err := unix.Read(c.fd, in)
		c.idle.Add(-1)
		switch err {
		case nil:
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: the caller has gone away
			continue
		default: // ENODEV: unmounted
			return
		}
		c.begun.Add(1)
		select {
		case c.busy <- struct{}{}:
		default:
		}
		if binary.NativeEndian.Uint32(in[4:]) == opWrite {
			c.more()
		}
		c.answer(in[:n], out)
		if c.idle.Load() > 0 {
			return
		}
	}
}

const (
	maxMessage = maxRead + 4096 // the headers are less than that
	opWrite    = 16             // FUSE_WRITE
	outHeader  = 16             // bytes: length, errno, the request's number
)

func (c *connection) answer(in, out []byte) {
	n, status := c.protocol.HandleRequest([][]byte{in}, [][]byte{out})
	if !status.Ok() { // the library does not know what to make of it
		n = outHeader
		binary.NativeEndian.PutUint32(out, outHeader)
		binary.NativeEndian.PutUint32(out[4:], uint32(-int32(status)))
		copy(out[8:outHeader], in[8:])
	}
	if n > 0 {
		_, _ = unix.Write(c.fd, out[:n]) // ENOENT: the caller has gone away
	}
}

// overlook starts another loop when the only one has not come back after a tick.
// It sleeps while there are no requests.
func (c *connection) overlook() {
	const tick, rest = time.Millisecond, 100
	for range c.busy {
		for calm := 0; calm < rest; calm++ {
			before := c.begun.Load()
			time.Sleep(tick)
			switch {
			case c.begun.Load() != before:
				calm = 0
			case c.idle.Load() == 0:
				c.more()
			}
		}
	}
}
