//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A connection to others ends when the restore is told so: what it had received is
// there, and then an error.
func TestTCPConnectionsToOthersEnd(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		if c, err := server.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			time.Sleep(time.Minute)
			c.Close()
		}
	}()
	s := start(t, python(t, fmt.Sprintf(`
import signal, socket
s = socket.create_connection(("127.0.0.1", %d))
while len(s.recv(5, socket.MSG_PEEK)) < 5: pass
signal.pthread_sigmask(0, [10])
print("ready", flush=True)
signal.sigwait([10])
assert s.recv(9) == b"hello"
try: s.recv(9)
except ConnectionResetError: pass
else: assert False
assert s.recv(9) == b""
`, server.Addr().(*net.TCPAddr).Port)))
	obstacles, err := Check(s.group)
	if err != nil || len(obstacles) != 1 || obstacles[0].Hinders() || !strings.Contains(obstacles[0].String(), "TCP connection to 127.0.0.1:") || obstacles[0].Option != "--tcp-close" {
		t.Errorf("%v, %v", obstacles, err)
	}
	image := s.save(t, Killed)
	if _, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "--tcp-close") {
		t.Error(err)
	}
	job, err := Restore(context.Background(), bytes.NewReader(image), s.f, RestoreOptions{TCPClose: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.group.Kill(context.Background())
		_, _, _ = job.Wait()
	})
	goesOn(t, s, job)
}

// What one end has sent and the other has no room for is read before there is an
// image; and where nobody reads it there is none.
func TestWhatIsUnderWayOnTCPIsReadFirst(t *testing.T) {
	s := start(t, python(t, `
import os, socket
l = socket.create_server(("127.0.0.1", 0))
l.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100000)
c = socket.create_connection(l.getsockname())
s, _ = l.accept()
c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50000)
if os.fork() == 0:
    s.close()
    n = 0
    while not os.path.exists("go"):
        c.sendall(b"%07d\n" % n * 1000); n += 1
    os._exit(0)
c.close()
f, n = s.makefile("rb"), 0
for line in f:
    assert int(line) == n // 1000, (line, n)
    n += 1
    if n == 100000: print("ready", flush=True)
assert n % 1000 == 0
`))
	job := s.restore(t, s.save(t, Killed))
	if err := os.WriteFile(filepath.Join(s.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ends(t, s, job)
	s = start(t, pySubject(t, `
import socket
l = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(l.getsockname()); s, _ = l.accept()
c.setblocking(False)
try:
    while True: c.send(b"x" * 100000)
except BlockingIOError: pass`))
	if _, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{}); !errors.Is(err, errUnread) || !strings.Contains(err.Error(), " bytes are under way to 127.0.0.1:") {
		t.Error(err)
	}
	lives(t, s)
}

func TestAConnectionThatIsNotAcceptedIsRefused(t *testing.T) {
	s := start(t, pySubject(t, `import socket; s = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(s.getsockname())`))
	if _, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{}); !errors.Is(err, errUnread) || !strings.Contains(err.Error(), "1 connections wait at 127.0.0.1:") {
		t.Error(err)
	}
	lives(t, s)
}
