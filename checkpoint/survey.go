package checkpoint

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A survey finds out all that can be seen of a group's processes from without:
// through /proc and system calls that only read. What nobody but the process
// itself can be asked is in ask.go.
type survey struct {
	group     *freezer.Group
	frozen    bool // it, or a group below it, is and stays so
	job       *Job
	obstacles []Obstacle
	command   map[int]string
	files     fileTable
	terminals terminalState
	waiting   error          // what must be read before there can be an image
	readers   []int          // the tasks that can read it
	mapped    map[string]int // by path
	shared    map[inode]int
	origins   []origin      // of Job.Shared
	inMemory  map[inode]int // mapped files that are in memory and may be written, as places in Job.Mapped
	parents   map[int]int
	own       map[string]string // namespaces
	vvar      []Mapping         // of this program
	filtered  bool              // a thread has a seccomp filter
	code      []byte            // of the vdso, without the zeros at its end
	base      *Base             // that the next image builds on, if it can
	tracked   map[int]bool      // processes whose writes are noted, by a userfaultfd of ours
	before    known             // from a look at the running tasks
	now       known             // for the next survey
}

// Known is what a look at the running tasks found that need not be found again.
type known struct {
	mapped map[mappedID]Mapped
	odd    map[int]bool // by PID: it has mappings that a copy shows not, or not whole
	maps   map[int][]Mapping

	outside map[inode]int // who has shared memory mapped that is not in the job, or 0
}

// mappedID names a mapped file as maps does.
type mappedID struct {
	path   string
	device uint64
	inode  string
}

// inode names a file for good.
type inode struct{ dev, ino uint64 }

func newSurvey(g *freezer.Group) (*survey, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	s := &survey{
		group:   g,
		job:     &Job{ID: rand.Text(), Group: g.Name(), Taken: time.Now().UTC(), Host: host, Kernel: kernel()},
		command: map[int]string{},
		mapped:  map[string]int{},
		shared:  map[inode]int{},

		inMemory: map[inode]int{},
		parents:  map[int]int{},
		own:      namespaces(os.Getpid()),
		tracked:  map[int]bool{},
		now:      known{map[mappedID]Mapped{}, map[int]bool{}, map[int][]Mapping{}, map[inode]int{}},
	}
	s.files.pipes = map[inode]string{}
	s.terminals = terminalState{numbers: map[int]int{}, masters: map[int]int{}, outside: map[int]bool{}, controls: map[int]controlling{}}
	var err error
	s.code, s.vvar, err = ownVDSO()
	s.job.VDSO = hash(s.code)
	return s, err
}

func kernel() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}

// supported is an error where checkpoints cannot be made or restored.
func supported() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w: checkpoints need x86-64, and this is %s", freezer.ErrUnsupported, runtime.GOARCH)
	}
	return nil
}

func (s *survey) hinder(pid int, where, format string, args ...any) {
	s.obstacles = append(s.obstacles, Obstacle{PID: pid, Command: s.command[pid], Where: where, What: fmt.Sprintf(format, args...)})
}

// members finds the processes of the group, zombies among them, parents before
// children.
func (s *survey) members() error {
	groups, err := s.group.Walk()
	if err != nil {
		return err
	}
	found := map[int]*Process{}
	for _, g := range groups {
		pids, err := g.Processes()
		g.Close()
		if errors.Is(err, freezer.ErrNotExist) && g != s.group {
			continue
		}
		if err != nil {
			return err
		}
		below := strings.TrimPrefix(strings.TrimPrefix(g.Dir(), s.group.Dir()), "/")
		for _, pid := range pids {
			found[pid] = &Process{PID: pid, Group: below}
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("%s has no process to checkpoint", s.group.Name())
	}
	for pid := range found {
		s.children(pid, found)
	}
	for _, p := range found {
		s.kin(p, found)
	}
	for _, root := range roots(found) {
		s.descend(root, found)
	}
	return nil
}

// children adds a process's zombies, and finds the children that are elsewhere.
func (s *survey) children(pid int, found map[int]*Process) {
	for _, tid := range proc.Threads(pid) {
		text, _ := kernfs.ReadFile(proc.Path(pid, "task/"+strconv.Itoa(tid)+"/children"))
		for word := range bytes.FieldsSeq(text) {
			child, _ := strconv.Atoi(string(word))
			if found[child] != nil {
				continue
			}
			st, err := proc.ReadStat(child)
			if err != nil {
				continue
			}
			if st.State == 'Z' || st.State == 'X' {
				found[child] = &Process{PID: child, Ended: new(int)}
				continue
			}
			s.hinder(pid, "child "+strconv.Itoa(child), "it (%s) is not in the group", st.Command)
		}
	}
}

// kin reads who is above a process.
func (s *survey) kin(p *Process, found map[int]*Process) {
	st, err := readFields(p.PID)
	if err != nil {
		return // it has ended since, and Save sees that
	}
	s.command[p.PID] = st.command
	p.Command = st.command
	p.ExitSignal = int(int32(st.number(38)))
	if parent := int(st.number(4)); found[parent] != nil {
		p.Parent = parent
	}
	if p.Ended != nil {
		*p.Ended = int(st.number(52))
	}
	p.ProcessGroup, p.Session = int(st.number(5)), int(st.number(6))
	// What is led from outside is led from where the job is restored.
	if found[p.Session] == nil {
		p.Session = 0
	}
	if found[p.ProcessGroup] == nil {
		p.ProcessGroup = 0
	}
	s.terminals.controls[p.PID] = controlling{device: st.number(7), foreground: int(st.number(8))}
	if p.ExitSignal != int(unix.SIGCHLD) {
		s.hinder(p.PID, "process", "it does not tell its parent by SIGCHLD when it ends, but by signal %d", p.ExitSignal)
	}
}

func roots(found map[int]*Process) (pids []int) {
	for pid, p := range found {
		if p.Parent == 0 {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func (s *survey) descend(pid int, found map[int]*Process) {
	s.job.Processes = append(s.job.Processes, *found[pid])
	var below []int
	for child, p := range found {
		if p.Parent == pid {
			below = append(below, child)
		}
	}
	slices.Sort(below)
	for _, child := range below {
		s.descend(child, found)
	}
}

// all looks at all processes.
func (s *survey) all() {
	s.sessions()
	for i := range s.job.Processes {
		if p := &s.job.Processes[i]; p.Ended == nil {
			s.process(p)
		}
	}
	s.sharing()
	s.files.finish(s)
}

// sessions finds the sessions and process groups that cannot be made again.
func (s *survey) sessions() {
	byPID := map[int]*Process{}
	outside := map[int]bool{} // process groups of roots, which are led from outside
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		byPID[p.PID] = p
	}
	for _, p := range byPID {
		if st, err := readFields(p.PID); err == nil && p.Parent == 0 && p.ProcessGroup == 0 {
			outside[int(st.number(5))] = true
		}
	}
	for i := range s.job.Processes {
		p := &s.job.Processes[i]
		above := 0 // the session that it can inherit
		if p.Parent != 0 {
			above = byPID[p.Parent].Session
		}
		switch {
		case p.Session == p.PID || p.Session == above:
		case p.Parent != 0 && above == p.Parent && p.Session == inherited(byPID, p.Parent):
		default:
			s.hinder(p.PID, "process", "its session's leader, or its parent, has ended or is outside of the group")
		}
		if p.ProcessGroup == 0 {
			if st, err := readFields(p.PID); err == nil && !outside[int(st.number(5))] {
				s.hinder(p.PID, "process", "the leader of its process group %d has ended", st.number(5))
			}
		}
	}
}

// inherited is the session that a process had before it led one of its own.
func inherited(all map[int]*Process, pid int) int {
	if parent := all[all[pid].Parent]; parent != nil {
		return parent.Session
	}
	return 0
}

// process looks at one process that has not ended.
func (s *survey) process(p *Process) {
	pid := p.PID
	st, err := readFields(pid)
	if err != nil {
		s.hinder(pid, "process", "it has ended")
		return
	}
	status, err := kernfs.ReadFile(proc.Path(pid, "status"))
	if err != nil {
		s.hinder(pid, "process", "it has ended")
		return
	}
	text := func(field string) string { return proc.StatusField(status, field) }
	s.state(pid, st.state, text)
	p.Settings = settingsOf(pid, text)
	s.namespaces(pid)
	umask, _ := strconv.ParseInt(text("Umask"), 8, 32)
	p.Umask = int(umask)
	p.Identity = readIdentity(text)
	p.Layout = Layout{
		StartCode: st.number(26), EndCode: st.number(27), StartStack: st.number(28),
		StartData: st.number(45), EndData: st.number(46), StartBrk: st.number(47),
		ArgStart: st.number(48), ArgEnd: st.number(49), EnvStart: st.number(50), EnvEnd: st.number(51),
	}
	if text, err := kernfs.ReadFile(proc.Path(pid, "cmdline")); err == nil && len(text) > 0 {
		p.Arguments = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	}
	p.Layout.Auxv, _ = kernfs.ReadFile(proc.Path(pid, "auxv"))
	p.Personality, _ = strconv.ParseUint(oneLine(pid, "personality"), 16, 64)
	p.OOMScore, _ = strconv.Atoi(oneLine(pid, "oom_score_adj"))
	p.Directory = s.place(pid, "cwd", "working directory")
	if root, _ := os.Readlink(proc.Path(pid, "root")); root != "/" {
		s.hinder(pid, "root directory", "%s: it is not that of the host", root)
	}
	for resource := range 16 {
		var l unix.Rlimit
		if unix.Prlimit(pid, resource, nil, &l) == nil {
			p.Limits = append(p.Limits, [2]uint64{l.Cur, l.Max})
		}
	}
	if timers, err := kernfs.ReadFile(proc.Path(pid, "timers")); err == nil {
		s.posixTimers(p, timers)
	}
	s.threads(p)
	s.memory(p)
	s.descriptors(p)
}

// state finds what is unusual of a process as a whole.
func (s *survey) state(pid int, state byte, text func(string) string) {
	if state == 'Z' {
		s.hinder(pid, "process", "its first thread has ended, but others go on")
	}
	if by, _ := strconv.Atoi(text("TracerPid")); by != 0 && proc.Process(by) != os.Getpid() {
		s.hinder(pid, "process", "it is traced by process %d", by)
	}
	if text("x86_Thread_features") != "" {
		s.hinder(pid, "process", "it has a shadow stack")
	}
	var magic [5]byte
	if exe, err := os.Open(proc.Path(pid, "exe")); err == nil {
		_, _ = exe.Read(magic[:])
		exe.Close()
	}
	if magic[4] == 1 {
		s.hinder(pid, "process", "it runs 32-bit code")
	}
}

// place reads a link of /proc to a directory that must still be where it was.
func (s *survey) place(pid int, link, what string) string {
	path, err := os.Readlink(proc.Path(pid, link))
	if err != nil {
		s.hinder(pid, what, "it cannot be read: %v", errors.Unwrap(err))
		return "/"
	}
	if !sameFile(proc.Path(pid, link), path) {
		s.hinder(pid, what, "%s is not there any more", path)
	}
	return path
}

// sameFile says whether two paths lead to one file.
func sameFile(a, b string) bool {
	x, err := inodeOf(a)
	if err != nil {
		return false
	}
	y, err := inodeOf(b)
	return err == nil && x == y
}

func inodeOf(path string) (inode, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return inode{st.Dev, st.Ino}, err
}

func oneLine(id int, file string) string {
	text, _ := kernfs.ReadFile(proc.Path(id, file))
	return strings.TrimSpace(string(text))
}

// namespaces finds the namespaces that are not those of this program.
func (s *survey) namespaces(pid int) {
	theirs := namespaces(pid)
	for name, id := range s.own {
		if theirs[name] != id {
			s.hinder(pid, "process", "it has a namespace of its own: %s", name)
		}
	}
}

func namespaces(pid int) map[string]string {
	all := map[string]string{}
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"} {
		if id, err := os.Readlink(proc.Path(pid, "ns/"+name)); err == nil {
			all[name] = id
		}
	}
	return all
}

// readIdentity reads the lines of a status file that say whom a task acts for.
func readIdentity(text func(string) string) (id Identity) {
	numbers := func(field string, into []int) {
		for i, word := range strings.Fields(text(field)) {
			if i < len(into) {
				into[i], _ = strconv.Atoi(word)
			}
		}
	}
	numbers("Uid", id.UIDs[:])
	numbers("Gid", id.GIDs[:])
	id.Groups = make([]int, len(strings.Fields(text("Groups"))))
	numbers("Groups", id.Groups)
	for i, field := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		id.Caps[i], _ = strconv.ParseUint(text(field), 16, 64)
	}
	id.NoNewPrivs = text("NoNewPrivs") == "1"
	return id
}

// sharing finds what processes share that are made apart here.
func (s *survey) sharing() {
	kinds := []struct {
		kind int
		name string
	}{{kcmpVM, "memory"}, {kcmpFiles, "its table of descriptors"}, {kcmpFS, "its working directory"}, {kcmpSighand, "its signal handlers"}}
	for _, k := range kinds {
		var seen []int
		for _, p := range s.job.Processes {
			if p.Ended != nil {
				continue
			}
			i, found := slices.BinarySearchFunc(seen, p.PID, func(a, b int) int { return kcmp(a, b, k.kind, 0, 0) })
			if found {
				s.hinder(p.PID, "process", "it shares %s with process %d", k.name, seen[i])
				continue
			}
			seen = slices.Insert(seen, i, p.PID)
		}
	}
}

// The types of kcmp(2).
const (
	kcmpFile = iota
	kcmpVM
	kcmpFiles
	kcmpFS
	kcmpSighand
)

// kcmp orders what two processes have.
func kcmp(a, b, kind, fdA, fdB int) int {
	r, _, errno := unix.RawSyscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), uintptr(kind), uintptr(fdA), uintptr(fdB), 0)
	switch {
	case errno != 0 || r == 3: // unequal, and without an order
		return -1
	case r == 1:
		return -1
	case r == 2:
		return 1
	}
	return 0
}
