package freezertest

import (
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cgfreezer/freezer"
)

// A Model is the specification in memory: groups with a self state, and
// processes that are in one of them, or in the root. It is a System and a World.
type Model struct {
	// FrozenDie says whether SIGKILL ends a frozen process at once (cgroup2) or
	// only when it is thawed (cgroup1).
	FrozenDie bool

	mu    sync.Mutex
	self  map[string]bool // of each group, whether it is freezing
	procs map[int]*modelProcess
	last  int
}

type modelProcess struct {
	group                    string
	blocked, stopped, killed bool
	zombie, waits            bool // waits: stopped by a signal that acts at thaw
	count                    uint64
}

// NewModel is an empty tree and an empty world.
func NewModel(frozenDie bool) *Model {
	return &Model{FrozenDie: frozenDie, self: map[string]bool{"/": false}, procs: map[int]*modelProcess{}}
}

var (
	_ Killer    = (*Model)(nil)
	_ Explainer = (*Model)(nil)
)

// Pure is the target that is a model.
func Pure(testing.TB) (System, World) {
	m := NewModel(true)
	return m, m
}

// within says whether group is above or lies below it.
func within(above, group string) bool {
	return above == "/" || group == above || strings.HasPrefix(group, above+"/")
}

func parent(group string) string {
	if dir := path.Dir(group); dir != "." {
		return dir
	}
	return "/"
}

// find is ENOENT, or EINVAL, where a group is not there.
func (m *Model) find(group string) error {
	if err := freezer.CheckName(group); err != nil {
		return err
	}
	if _, ok := m.self[group]; !ok {
		return syscall.ENOENT
	}
	return nil
}

func (m *Model) parentFreezing(group string) bool {
	for group != "/" {
		if group = parent(group); m.self[group] {
			return true
		}
	}
	return false
}

func (m *Model) freezing(group string) bool { return m.self[group] || m.parentFreezing(group) }

// inside calls do for each process in the group or below it.
func (m *Model) inside(group string, do func(pid int, p *modelProcess)) {
	for pid, p := range m.procs {
		if within(group, p.group) {
			do(pid, p)
		}
	}
}

func (m *Model) blocked(group string) (pids []int) {
	m.inside(group, func(pid int, p *modelProcess) {
		if p.blocked {
			pids = append(pids, pid)
		}
	})
	return pids
}

// Create makes a group.
func (m *Model) Create(group string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.find(group)
	switch {
	case err == nil:
		return syscall.EEXIST
	case err != syscall.ENOENT:
		return err
	}
	if err := m.find(parent(group)); err != nil {
		return err
	}
	m.self[group] = false
	return nil
}

// Remove removes an empty group.
func (m *Model) Remove(group string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.find(group); err != nil {
		return err
	}
	busy := false
	m.inside(group, func(_ int, p *modelProcess) { busy = busy || !p.zombie })
	for other := range m.self {
		busy = busy || other != group && within(group, other)
	}
	if busy {
		return syscall.EBUSY
	}
	delete(m.self, group)
	return nil
}

// List lists all groups but the root.
func (m *Model) List() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.self))
	return slices.DeleteFunc(names, func(n string) bool { return n == "/" }), nil
}

// Add moves a process.
func (m *Model) Add(group string, pid int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := freezer.CheckName(group); err != nil {
		return err
	}
	if pid <= 0 || pid > 1<<22 {
		return syscall.EINVAL
	}
	p := m.procs[pid]
	if p == nil || p.zombie {
		return syscall.ESRCH
	}
	if err := m.find(group); err != nil {
		return err
	}
	p.group = group
	m.settle()
	return nil
}

// Processes lists the living of one group.
func (m *Model) Processes(group string) ([]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.find(group); err != nil {
		return nil, err
	}
	var pids []int
	for pid, p := range m.procs {
		if p.group == group && !p.zombie {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// Freeze freezes at once what is not blocked.
func (m *Model) Freeze(group string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.find(group); err != nil {
		return err
	}
	m.self[group] = true
	if len(m.blocked(group)) > 0 {
		return syscall.EBUSY
	}
	return nil
}

// Thaw lets the group run, unless an ancestor is freezing.
func (m *Model) Thaw(group string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.find(group); err != nil {
		return err
	}
	m.self[group] = false
	m.settle()
	return nil
}

// States computes the three states.
func (m *Model) States(group string) (freezer.States, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.find(group); err != nil {
		return freezer.States{}, err
	}
	s := freezer.States{}
	if m.self[group] {
		s.Self = freezer.Freezing
	}
	if m.parentFreezing(group) {
		s.Parent = freezer.Freezing
	}
	switch {
	case !m.freezing(group):
	case len(m.blocked(group)) > 0:
		s.Effective = freezer.Freezing
	default:
		s.Effective = freezer.Frozen
	}
	return s, nil
}

// Kill kills all that can die.
func (m *Model) Kill(group string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.find(group); err != nil {
		return err
	}
	m.inside(group, func(_ int, p *modelProcess) {
		p.killed = true
		p.zombie = p.zombie || !p.blocked
	})
	m.settle()
	if len(m.blocked(group)) > 0 {
		return syscall.EBUSY
	}
	return nil
}

// Blockers lists what is blocked in a freezing group.
func (m *Model) Blockers(group string) ([]freezer.Blocker, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.find(group); err != nil || !m.freezing(group) {
		return nil, err
	}
	var out []freezer.Blocker
	for _, pid := range m.blocked(group) {
		out = append(out, freezer.Blocker{TID: pid, PID: pid, Group: m.procs[pid].group})
	}
	return out, nil
}

// settle lets signals act on whatever is not frozen any more.
func (m *Model) settle() {
	for _, p := range m.procs {
		if !m.freezing(p.group) {
			p.stopped = p.stopped || p.waits
			p.waits = false
		}
		if p.killed && !p.blocked && (m.FrozenDie || !m.freezing(p.group)) {
			p.zombie = true
		}
	}
}

func (m *Model) start(p modelProcess) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	m.procs[m.last] = &p
	return m.last
}

// Adopt has the model know a process of another world, in the root.
func (m *Model) Adopt(pid int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.procs[pid] = &modelProcess{group: "/"}
}

// Sleeper starts a process in the root.
func (m *Model) Sleeper() int { return m.start(modelProcess{group: "/"}) }

// Counter starts a process in the root.
func (m *Model) Counter() int { return m.Sleeper() }

// Count goes on each time it is read, while the process runs.
func (m *Model) Count(pid int) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.procs[pid]
	if !m.freezing(p.group) && !p.stopped && !p.zombie {
		p.count++
	}
	return p.count
}

// Fork makes a child where its parent is.
func (m *Model) Fork(pid int) int {
	m.mu.Lock()
	group := m.procs[pid].group
	m.mu.Unlock()
	return m.start(modelProcess{group: group})
}

// change changes one process and lets that act.
func (m *Model) change(pid int, how func(*modelProcess)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	how(m.procs[pid])
	m.settle()
}

// Stop stops a process, at thaw if it is frozen.
func (m *Model) Stop(pid int) { m.change(pid, func(p *modelProcess) { p.waits = true }) }

// Continue takes a stop back.
func (m *Model) Continue(pid int) {
	m.change(pid, func(p *modelProcess) { p.waits, p.stopped = false, false })
}

// KillProcess ends a process, at thaw if it is frozen and this model's tasks do not die frozen.
func (m *Model) KillProcess(pid int) { m.change(pid, func(p *modelProcess) { p.killed = true }) }

// State is Z, T or S.
func (m *Model) State(pid int) byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch p := m.procs[pid]; {
	case p == nil || p.zombie:
		return 'Z'
	case p.stopped:
		return 'T'
	}
	return 'S'
}

// Blocker starts a process that cannot be frozen until it is released.
func (m *Model) Blocker() (pid int, release func()) {
	pid = m.start(modelProcess{group: "/", blocked: true})
	return pid, func() { m.change(pid, func(p *modelProcess) { p.blocked = false }) }
}
