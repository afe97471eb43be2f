package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A unix socket remembers who made it (SO_PEERCRED), so the ends of a connection
// are made by processes that have the PIDs and identities of those who made them,
// for as long as that takes: makers. They share the nursery's table of
// descriptors, where each socket gets the number of its file.
//
// A connection that was accepted has the name of the socket which listened. It is
// made by means of one with that name which is closed again; where the name is a
// path, in a file system that nobody else sees, so that nothing of the host is in
// the way.

// makeSockets makes the job's sockets, and connects them.
func (r *restorer) makeSockets() error {
	m := &socketMaker{restorer: r, ids: r.job.byID()}
	if len(m.ids) == 0 {
		return nil
	}
	w := r.nursery
	w.do("umask", unix.SYS_UMASK, 0)
	if err := m.each((*socketMaker).make); err != nil {
		return err
	}
	for _, step := range []func(*socketMaker, int, *Socket) error{(*socketMaker).bind, (*socketMaker).listen, (*socketMaker).wait, (*socketMaker).connect} {
		if err := m.each(step); err != nil {
			return err
		}
	}
	return w.work()
}

// A socketMaker makes sockets in the nursery's table of descriptors.
type socketMaker struct {
	*restorer
	ids map[uint64]int
}

// each does something with each socket.
func (m *socketMaker) each(do func(*socketMaker, int, *Socket) error) error {
	for i := range m.job.Files {
		f := &m.job.Files[i]
		if f.Kind != fileSocket || f.Socket.inet() {
			continue
		}
		if err := do(m, i, f.Socket); err != nil {
			return fmt.Errorf("%s: %w", f.Socket.describe(), err)
		}
	}
	return nil
}

// isHidden says whether a socket's name is a path that leads to it no more, or
// never did.
func (k *Socket) isHidden() bool {
	_, path := unixPath(k.Name)
	return path && k.Place == nil
}

// openHidden gets a place for names that are not to be seen, if it is needed.
func (r *restorer) openHidden() error {
	r.hiddenAt = -1
	for i := range r.job.Files {
		f := &r.job.Files[i]
		if f.Kind != fileSocket || !f.Socket.isHidden() {
			continue
		}
		if r.hiddenAt < 0 {
			at, err := hiddenFiles()
			if err != nil {
				return fmt.Errorf("a place for the names of sockets: %w", err)
			}
			r.hiddenAt = len(r.files)
			r.files = append(r.files, at)
		}
		path, _ := unixPath(f.Socket.Name)
		if err := makeBelow(r.files[r.hiddenAt], filepath.Dir(strings.TrimLeft(path, "/"))); err != nil {
			return err
		}
	}
	return nil
}

// hiddenFiles is an empty file system in memory that nobody has mounted, and that
// goes with its last descriptor.
func hiddenFiles() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// makeBelow makes directories in which all may look.
func makeBelow(at int, path string) error {
	done := "."
	for part := range strings.SplitSeq(path, "/") {
		done += "/" + part
		if err := unix.Mkdirat(at, done, 0); err != nil && err != unix.EEXIST {
			return err
		}
		if err := unix.Fchmodat(at, done, 0o777, 0); err != nil {
			return err
		}
	}
	return nil
}

// as has a process make system calls that acts for c, or for this program when
// that is nil, and, when it is apart, sees only what is hidden.
func (m *socketMaker) as(c *Maker, apart bool, do func(w *worker)) error {
	if c == nil && !apart {
		do(m.nursery)
		return m.nursery.work()
	}
	pid := m.job.Processes[0].PID // stands in for who cannot be there
	if c != nil && c.PID > 1 && (m.own != nil || !alive(c.PID)) {
		pid = c.PID
	}
	return m.briefly(pid, func(w *worker) error {
		m.become(w, c, apart)
		do(w)
		return w.work()
	})
}

// briefly has something done by a process with a PID that shares the nursery's table
// of descriptors, and is gone afterwards.
func (r *restorer) briefly(pid int, do func(w *worker) error) error {
	flags, exitSignal := uint64(unix.CLONE_FILES|unix.CLONE_PARENT), 0
	if r.own != nil { // whose first process has no siblings
		flags, exitSignal = unix.CLONE_FILES, int(unix.SIGCHLD)
	}
	w, err := r.nursery.clone(flags, exitSignal, pid)
	if err != nil {
		return err
	}
	err = do(w)
	r.end(w)
	if r.own != nil {
		r.nursery.expect(uintptr(pid), "waiting for a process", unix.SYS_WAIT4, uintptr(pid), 0, unix.WALL, 0)
		err = errors.Join(err, r.nursery.work())
	}
	return err
}

// become has a maker act for c, and see what it is to see.
func (m *socketMaker) become(w *worker, c *Maker, apart bool) {
	if apart {
		w.do("going apart", unix.SYS_FCHDIR, m.fileFD(m.hiddenAt))
		w.do("staying there", unix.SYS_CHROOT, w.put([]byte(".\x00")))
	}
	if c != nil && (c.UID != os.Geteuid() || c.GID != os.Getegid() || !sameGroups(c.Groups)) {
		groups := make([]byte, 4*len(c.Groups)+8)
		for i, g := range c.Groups {
			put64Part(groups[4*i:], uint32(g))
		}
		w.do("groups", unix.SYS_SETGROUPS, uintptr(len(c.Groups)), w.put(groups))
		w.do("GID", unix.SYS_SETRESGID, uintptr(c.GID), uintptr(c.GID), uintptr(c.GID))
		w.do("UID", unix.SYS_SETRESUID, uintptr(c.UID), uintptr(c.UID), uintptr(c.UID))
	}
}

func sameGroups(theirs []int) bool {
	own, err := os.Getgroups()
	return err == nil && slices.Equal(own, theirs)
}

// The lowest numbers, which the nursery does not use otherwise.
const (
	firstFree = iota
	secondFree
)

// take gives a socket the number of its file.
func (m *socketMaker) take(w *worker, fd, file int) {
	w.do("giving a socket its number", unix.SYS_DUP3, uintptr(fd), m.fileFD(file), 0)
	w.do("closing its other one", unix.SYS_CLOSE, uintptr(fd))
}

// make makes a socket, and with it the one that it was made with.
func (m *socketMaker) make(i int, k *Socket) error {
	peer, ok := m.ids[k.Peer]
	pair := ok && (k.Type != unix.SOCK_DGRAM || k.Maker != nil) && m.job.Files[peer].Socket.Peer == k.ID
	switch {
	case pair && k.Accepted:
		return m.accepted(peer, i)
	case pair && m.job.Files[peer].Socket.Accepted:
		return nil // with that one
	case pair && i > peer:
		return nil
	case pair:
		return m.as(k.Maker, false, func(w *worker) {
			w.do("a pair of sockets", unix.SYS_SOCKETPAIR, uintptr(k.Family), uintptr(k.Type), 0, w.put(make([]byte, 8)))
			m.take(w, firstFree, i)
			m.take(w, secondFree, peer)
		})
	}
	return m.as(nil, false, func(w *worker) {
		w.expect(firstFree, "a socket", unix.SYS_SOCKET, uintptr(k.Family), uintptr(k.Type), uintptr(k.Protocol))
		m.take(w, firstFree, i)
	})
}

// accepted makes a connection, and both its ends.
func (m *socketMaker) accepted(client, server int) error {
	c, k := m.job.Files[client].Socket, m.job.Files[server].Socket
	_, apart := unixPath(k.Name)
	err := m.as(nil, apart, func(w *worker) {
		w.expect(firstFree, "a socket", unix.SYS_SOCKET, unix.AF_UNIX, uintptr(k.Type), 0)
		w.do("its mode", unix.SYS_FCHMOD, firstFree, 0o777)
		w.do("binding it", unix.SYS_BIND, firstFree, w.put(k.Name), uintptr(len(k.Name)))
	})
	if err != nil {
		return err
	}
	if err := m.as(c.Maker, false, func(w *worker) { w.do("listening", unix.SYS_LISTEN, firstFree, 1) }); err != nil {
		return err
	}
	return m.as(k.Maker, apart, func(w *worker) {
		w.expect(secondFree, "a socket", unix.SYS_SOCKET, unix.AF_UNIX, uintptr(k.Type), 0)
		w.do("connecting", unix.SYS_CONNECT, secondFree, w.put(k.Name), uintptr(len(k.Name)))
		m.take(w, secondFree, client)
		w.expect(secondFree, "accepting", unix.SYS_ACCEPT4, firstFree, 0, 0, 0)
		m.take(w, secondFree, server)
		w.do("closing", unix.SYS_CLOSE, firstFree)
		if apart {
			path, _ := unixPath(k.Name)
			w.do("taking the name away", unix.SYS_UNLINK, w.put([]byte(path+"\x00")))
		}
	})
}

// bind gives a socket its name, and the file that it had.
func (m *socketMaker) bind(i int, k *Socket) error {
	if k.Name == nil || k.Accepted {
		return nil
	}
	hidden := k.isHidden()
	if k.Place != nil {
		if err := clearPlace(k.Place.Path); err != nil {
			return err
		}
	}
	err := m.as(nil, hidden, func(w *worker) {
		if k.Place != nil {
			w.do("its mode", unix.SYS_FCHMOD, m.fileFD(i), uintptr(k.Place.Mode))
		}
		k.reach(w)
		w.do("binding it", unix.SYS_BIND, m.fileFD(i), w.put(k.Name), uintptr(len(k.Name)))
	})
	if err != nil || k.Place == nil {
		return err
	}
	m.bound = append(m.bound, k.Place.Path)
	if k.Place.UID != os.Geteuid() || k.Place.GID != os.Getegid() {
		return os.Lchown(k.Place.Path, k.Place.UID, k.Place.GID)
	}
	return nil
}

// clearPlace removes a socket's file to which no socket belongs any more.
func clearPlace(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil // then binding says why
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.New("another file is in the way")
	}
	// To try with a datagram socket is not seen by who listens there.
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(probe)
	if err := unix.Connect(probe, &unix.SockaddrUnix{Name: path}); err != unix.ECONNREFUSED {
		return errors.New("it is taken: a socket of others is bound to it")
	}
	return unix.Unlink(path)
}

// listen has a socket listen.
func (m *socketMaker) listen(i int, k *Socket) error {
	if !k.Listens {
		return nil
	}
	return m.as(k.Maker, false, func(w *worker) {
		w.do("listening", unix.SYS_LISTEN, m.fileFD(i), uintptr(k.Backlog))
	})
}

// wait makes the connections that wait to be accepted.
func (m *socketMaker) wait(i int, k *Socket) error {
	for _, id := range k.Waiting {
		client := m.ids[id]
		c := m.job.Files[client].Socket
		err := m.as(m.holder(client), k.isHidden(), func(w *worker) {
			k.reach(w)
			w.do("connecting", unix.SYS_CONNECT, m.fileFD(client), w.put(k.Name), uintptr(len(k.Name)))
		})
		if err != nil {
			return fmt.Errorf("%s: %w", c.describe(), err)
		}
	}
	return nil
}

// reach goes to where a socket's name leads to it.
func (k *Socket) reach(w *worker) {
	if k.Place != nil {
		w.do("its directory", unix.SYS_CHDIR, w.put([]byte(k.Place.From+"\x00")))
	}
}

// holder is a process that has a socket open, as one that makes a connection.
func (m *socketMaker) holder(file int) *Maker {
	for i := range m.job.Processes {
		p := &m.job.Processes[i]
		if slices.ContainsFunc(p.Descriptors, func(d Descriptor) bool { return d.File == file }) {
			return &Maker{PID: p.PID, UID: p.Identity.UIDs[1], GID: p.Identity.GIDs[1], Groups: p.Identity.Groups}
		}
	}
	return nil
}

// connect says where a datagram socket sends to.
func (m *socketMaker) connect(i int, k *Socket) error {
	if k.Type != unix.SOCK_DGRAM {
		return nil
	}
	to := k.Remote
	var p *Socket
	if peer, ok := m.ids[k.Peer]; ok && k.Maker == nil {
		p = m.job.Files[peer].Socket
		to = p.Name
	}
	if to == nil {
		return nil
	}
	return m.as(nil, p != nil && p.isHidden(), func(w *worker) {
		if p != nil {
			p.reach(w)
		}
		w.do("connecting to "+showAddress(to), unix.SYS_CONNECT, m.fileFD(i), w.put(to), uintptr(len(to)))
	})
}

// fillSockets puts into the sockets what waited in them, and sets their options,
// when all processes are there that may have sent it.
func (r *restorer) fillSockets() error {
	ids := r.job.byID()
	if len(ids) == 0 {
		return nil
	}
	fds := make([]int, len(r.job.Files))
	for i := range fds {
		fds[i] = -1
		if r.job.Files[i].Kind == fileSocket {
			fd, err := borrow(r.nursery.pid, int(r.fileFD(i)))
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			fds[i] = fd
		}
	}
	m := &socketMaker{restorer: r, ids: ids}
	for _, step := range []func(i int, k *Socket, fds []int) error{m.fill, m.shut} {
		for i, fd := range fds {
			if fd < 0 {
				continue
			}
			k := r.job.Files[i].Socket
			if err := step(i, k, fds); err != nil {
				return fmt.Errorf("%s: %w", k.describe(), err)
			}
		}
	}
	for i := range fds { // those that nobody has open are closed when all others are built
		if fds[i] >= 0 && r.files[i] >= 0 && m.isGhost(i) {
			unix.Close(r.files[i])
			r.files[i] = -1
		}
	}
	return nil
}

// enough is room for all that waits in one queue.
const enough = 2 * maxQueue

// fill has a socket's peers send again what waited in it.
func (m *socketMaker) fill(i int, k *Socket, fds []int) error {
	if k.Gone {
		return nil // it has all
	}
	for _, message := range k.Queue {
		from, ok := m.job.senderTo(m.ids, k, message)
		if !ok {
			return damaged("nobody sent what waits there")
		}
		var to []byte
		fd := -1
		if from >= 0 {
			fd = fds[from]
		}
		if k.inet() && k.Type == unix.SOCK_STREAM {
			_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_CORK, 0)
			_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1)
		} else if k.inet() {
			to = k.reachedBy(m.job.Files[from].Socket, message.From)
		} else if from < 0 || m.job.Files[from].Socket.Peer != k.ID {
			to = k.Name
			if k.Place != nil {
				to = append([]byte{unix.AF_UNIX, 0}, k.Place.Path...)
			}
		}
		if fd < 0 {
			var err error
			if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			defer unix.Close(fd)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, enough); err != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, enough)
		}
		if c := message.Cred; c != nil { // who may have another PID here
			message.Cred = &Maker{PID: m.byPID[c.PID].pid, UID: c.UID, GID: c.GID}
		}
		if err := sendMessage(fd, message, to); err != nil {
			return fmt.Errorf("sending again what waits there: %w", err)
		}
	}
	return nil
}

// shut gives a socket its options, and shuts down what it had shut down.
func (m *socketMaker) shut(i int, k *Socket, fds []int) error {
	fd := fds[i]
	if k.Reset && !k.inet() { // as when the other end was closed before it had received all
		if err := sendMessage(fd, Message{Data: []byte{0}}, nil); err != nil {
			return err
		}
	}
	if err := setOptions(fd, k); err != nil {
		return err
	}
	peer, ok := m.ids[k.Peer]
	if gone := ok && m.isGhost(peer); k.Shutdown != 0 && !gone {
		if err := unix.Shutdown(fd, map[int]int{shutReceive: unix.SHUT_RD, shutSend: unix.SHUT_WR, shutReceive | shutSend: unix.SHUT_RDWR}[k.Shutdown]); err != nil {
			return err
		}
	}
	if k.UID != os.Geteuid() || k.GID != os.Getegid() {
		if err := unix.Fchown(fd, k.UID, k.GID); err != nil {
			return err
		}
	}
	return unix.SetNonblock(fd, m.job.Files[i].Flags&unix.O_NONBLOCK != 0)
}

// isGhost says whether nobody has a socket open.
func (m *socketMaker) isGhost(file int) bool { return m.holder(file) == nil }
