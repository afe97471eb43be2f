package tracer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a tracer may take to answer.
const patience = 5 * time.Second

// errNobody says that there is no tracer, so that nothing is frozen.
var errNobody = errors.New("no tracer")

// ask sends a request to the tracer, and to all runners, and returns what they say
// together. With begin a tracer is started when there is none; else the error is
// errNobody when there is nobody at all.
func (h *Hierarchy) ask(begin bool, verb string, number uint64, path string) (string, error) {
	answer, err := h.askOne(socketName, begin, verb, number, path)
	for _, pid := range h.runners() {
		also, alsoErr := h.askOne(runnerSocket(pid), false, verb, number, path)
		if alsoErr == errNobody {
			_ = os.Remove(h.mount + "/" + runnerSocket(pid)) // it was killed
			continue
		}
		if err == errNobody {
			answer, err = also, alsoErr
			continue
		}
		answer, err = together(verb, answer, also), cmp.Or(err, alsoErr)
	}
	return answer, err
}

// together is what two answers amount to.
func together(verb, a, b string) string {
	switch {
	case verb == "task" && (a == "unknown" || b == "held"):
		return b
	case len(a) == 3 && len(b) == 3 && verb != "task" && verb != "hello": // states
		return string([]byte{max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2])})
	}
	return a
}

// askOne sends a request to the one who listens at a socket.
func (h *Hierarchy) askOne(socket string, begin bool, verb string, number uint64, path string) (string, error) {
	message := verb + " " + strconv.FormatUint(number, 10) + " " + path
	for give := time.Now().Add(patience); ; {
		conn, err := h.connect(socket, begin)
		if err != nil {
			return "", err
		}
		answer, err := talk(conn, message, give)
		if err == nil {
			h.keep(socket, conn)
			return parseAnswer(answer)
		}
		conn.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(give) {
			return "", fmt.Errorf("the tracer, which holds tasks, does not answer; when it is killed all its groups thaw: %w", unix.ETIMEDOUT)
		}
		time.Sleep(100 * time.Microsecond) // it has just ended, or another one was faster
	}
}

func talk(conn *os.File, message string, until time.Time) (string, error) {
	if err := conn.SetDeadline(until); err != nil {
		return "", err
	}
	if _, err := conn.WriteString(message); err != nil {
		return "", err
	}
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	return string(buf[:max(n, 0)]), err
}

func parseAnswer(answer string) (string, error) {
	code, text, _ := strings.Cut(answer, " ")
	errno, err := strconv.Atoi(code)
	if err != nil {
		return "", unix.EPROTO
	}
	if errno != 0 {
		return "", unix.Errno(errno)
	}
	return text, nil
}

// connect returns a connection that nobody uses.
func (h *Hierarchy) connect(socket string, begin bool) (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if idle := h.idle[socket]; len(idle) > 0 {
		conn := idle[len(idle)-1]
		h.idle[socket] = idle[:len(idle)-1]
		return conn, nil
	}
	conn, err := h.dial(socket)
	if err == errNobody {
		delete(h.idle, socket)
		if begin {
			return h.start()
		}
	}
	return conn, err
}

// keep puts a connection by for the next request.
func (h *Hierarchy) keep(socket string, conn *os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.idle[socket]) < 4 {
		if h.idle == nil {
			h.idle = map[string][]*os.File{}
		}
		h.idle[socket] = append(h.idle[socket], conn)
		return
	}
	conn.Close()
}

func (h *Hierarchy) dial(socket string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	for {
		err = h.atSocket(socket, func(path string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
		if err != unix.EAGAIN { // more wait there than fit in
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), "tracer"), nil
	case unix.ENOENT, unix.ECONNREFUSED, unix.ENOTDIR:
		err = errNobody
	}
	unix.Close(fd)
	return nil, err
}
