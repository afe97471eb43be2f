package tracer

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/invisible"
)

// A request is a line: a verb, the identity of a group's directory (or the
// number of a task) and the group's path. The answer begins with an errno, 0 when
// all is well.
//
//	hello            nothing: a tracer is there
//	freeze, thaw     change the self state; after a NUL, how to thaw invisibly
//	list             the groups whose self state is freezing, as NUMBER PATH lines
//	state            self, parent, frozen: a digit each
//	settle           the same, when nothing new is found any more, or soon
//	wait             the same, when it is frozen, or soon
//	moved            the process with that number has been put into the group
//	gone             the group has been removed
//	kill             kills all in the group and below; EAGAIN when some may be left
//	task             whether a task is held; if not, why
type request struct {
	verb     string
	number   uint64
	path     string
	calls    string // what invisible.Session wrote
	deadline time.Time
	conn     int // the descriptor that the answer is written to
}

func parseRequest(conn int, line string) (r *request, ok bool) {
	f := strings.SplitN(line, " ", 3)
	if len(f) != 3 {
		return nil, false
	}
	n, err := strconv.ParseUint(f[1], 10, 64)
	path, calls, _ := strings.Cut(f[2], "\x00")
	return &request{verb: f[0], number: n, path: path, calls: calls, conn: conn}, err == nil
}

// answer never waits: who does not read gets nothing.
func (r *request) answer(errno unix.Errno, text string) {
	_, _ = unix.Write(r.conn, []byte(strconv.Itoa(int(errno))+" "+text))
}

// Times that requests may take.
const (
	settleTime = 10 * time.Millisecond
	waitTime   = 2 * time.Millisecond
	killTime   = time.Second
)

func (t *tracer) handle(r *request) {
	if slices.Contains([]string{"freeze", "kill"}, r.verb) {
		if is, _ := t.h.identity(r.path); is != r.number {
			r.answer(unix.ENODEV, "")
			return
		}
	}
	if id, ok := t.freezing[r.path]; ok && id != r.number && r.verb != "moved" {
		t.thaw(r.path, nil) // it was removed by somebody who did not tell
	}
	switch r.verb {
	case "hello":
		r.answer(0, strconv.Itoa(os.Getpid()))
	case "freeze":
		t.freeze(r.path, r.number)
		r.answer(0, "")
	case "thaw", "gone":
		t.thaw(r.path, r.session())
		r.answer(0, "")
	case "moved":
		t.moved(int(r.number), r.path)
		r.answer(0, "")
	case "list":
		var b strings.Builder
		for path, id := range t.freezing {
			fmt.Fprintf(&b, "%d %s\n", id, path)
		}
		r.answer(0, b.String())
	case "state":
		r.answer(0, t.states(r.path))
	case "settle":
		r.deadline = time.Now().Add(settleTime)
		t.waiters = append(t.waiters, r)
	case "wait":
		r.deadline = time.Now().Add(waitTime)
		t.waiters = append(t.waiters, r)
	case "kill":
		t.killing[r.path] = true
		t.hurry(r.path)
		r.deadline = time.Now().Add(killTime)
		t.kills = append(t.kills, r)
	case "task":
		r.answer(0, t.whyNotHeld(int(r.number)))
	default:
		r.answer(unix.EOPNOTSUPP, "")
	}
}

// session is what an invisible thaw needs; nil for another one.
func (r *request) session() *invisible.Session {
	if r.calls == "" {
		return nil
	}
	s := new(invisible.Session)
	if s.UnmarshalBinary([]byte(r.calls)) != nil {
		return invisible.New()
	}
	return s
}

// states are self, parent and frozen.
func (t *tracer) states(path string) string {
	_, self := t.freezing[path]
	parent := false
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent = t.holds(path[:i])
	}
	return digit(self) + digit(parent) + digit(t.frozen(path))
}

func digit(yes bool) string {
	if yes {
		return "1"
	}
	return "0"
}

func (t *tracer) whyNotHeld(tid int) string {
	if k := t.tasks[tid]; k != nil {
		if k.stop.Stopped() || k.parked {
			return "held"
		}
		return "late"
	}
	for _, r := range t.refused {
		if r.tid == tid {
			return "late " + r.reason
		}
	}
	return "unknown"
}

// tell answers the requests that waited for what has come.
func (t *tracer) tell() {
	t.waiters = slices.DeleteFunc(t.waiters, func(r *request) bool {
		done := !t.holds(r.path) || time.Now().After(r.deadline) || t.settled(r.path) && (r.verb == "settle" || t.frozen(r.path))
		if done {
			r.answer(0, t.states(r.path))
		}
		return done
	})
	t.kills = slices.DeleteFunc(t.kills, func(r *request) bool {
		settled := t.settled(r.path)
		if !settled && time.Now().Before(r.deadline) {
			return false
		}
		t.kill(r.path)
		if settled {
			r.answer(0, "")
		} else {
			r.answer(unix.EAGAIN, "")
		}
		return true
	})
}

// kill ends all processes of a group and below, and lets go of it.
func (t *tracer) kill(path string) {
	pids := map[int]bool{}
	for pid, p := range t.processes {
		if under(path, p.path) {
			pids[pid] = true
		}
	}
	for r := range t.late(path) {
		pids[r.tid] = true
	}
	for pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	delete(t.killing, path)
	t.letGo(nil)
}

// serve takes the requests that come within a time, and then all that are there.
// It returns early when the tracer is woken.
func (t *tracer) serve(wait time.Duration) {
	timeout := unix.NsecToTimespec(int64(wait))
	n, err := unix.Ppoll(t.sources, &timeout, nil)
	if err != nil || n == 0 {
		return
	}
	for _, source := range slices.Clone(t.sources) {
		switch {
		case source.Revents == 0:
		case int(source.Fd) == t.ends:
			var count [8]byte
			_, _ = unix.Read(t.ends, count[:])
			t.woken = true
		case int(source.Fd) == startSocket && t.job != nil:
			t.forgetSource(startSocket) // nobody waits for the job any more
		case int(source.Fd) == t.listener:
			t.accept()
		default:
			t.receive(int(source.Fd))
		}
	}
}

// accept takes one more client. When there are no descriptors left, some end.
func (t *tracer) accept() {
	conn, _, err := unix.Accept4(t.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err == nil {
		t.sources = append(t.sources, unix.PollFd{Fd: int32(conn), Events: unix.POLLIN})
	}
}

func (t *tracer) receive(conn int) {
	n, err := unix.Read(conn, t.message[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err != nil || n == 0 {
		t.hangUp(conn)
		return
	}
	t.active = time.Now()
	r, ok := parseRequest(conn, string(t.message[:n]))
	if !ok {
		(&request{conn: conn}).answer(unix.EINVAL, "")
		return
	}
	t.handle(r)
}

// hangUp ends a connection. What it asked for and waits for goes with it, but
// not what it wants killed.
func (t *tracer) hangUp(conn int) {
	t.forgetSource(conn)
	t.waiters = slices.DeleteFunc(t.waiters, func(r *request) bool { return r.conn == conn })
	for _, r := range t.kills {
		if r.conn == conn {
			r.conn = -1
		}
	}
	unix.Close(conn)
}

func (t *tracer) forgetSource(fd int) {
	t.sources = slices.DeleteFunc(t.sources, func(s unix.PollFd) bool { return int(s.Fd) == fd })
}

const maxMessage = 64 << 10
