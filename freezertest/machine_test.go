package freezertest_test

import (
	"flag"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

// Long runs find more than many do. -rapid.steps overrides it.
func init() { _ = flag.Set("rapid.steps", "60") }

// A machine does the same to the model and to the kernel, and compares.
type machine struct {
	t      *testing.T
	kernel interface {
		freezertest.System
		freezertest.Killer
	}
	model *freezertest.Model
	world freezertest.World
	pids  []int
}

// Some names that nest, and some that cannot be.
var machineNames = rapid.SampledFrom([]string{"a", "b", "a/x", "a/y", "a/x/z", "b/x", "a/\n", "..", ""})

// name is a group that exists, most of the time.
func (m *machine) name(t *rapid.T) string {
	names, _ := m.model.List()
	if len(names) > 0 && rapid.IntRange(0, 9).Draw(t, "any name") > 0 {
		return rapid.SampledFrom(names).Draw(t, "group")
	}
	return machineNames.Draw(t, "name")
}

func (m *machine) pid(t *rapid.T) int {
	if len(m.pids) == 0 {
		t.Skip("no process yet")
	}
	return rapid.SampledFrom(m.pids).Draw(t, "pid")
}

// same fails the test unless both have the same errno.
func (m *machine) same(t *rapid.T, kernel, model error) {
	if freezer.Errno(kernel) != freezer.Errno(model) {
		t.Fatalf("the kernel says %v, the model %v", kernel, model)
	}
}

func (m *machine) start(t *rapid.T) {
	if len(m.pids) == 6 {
		t.Skip("enough processes")
	}
	pid := m.world.Sleeper()
	m.pids = append(m.pids, pid)
	m.model.Adopt(pid)
	m.same(t, m.kernel.Add("/", pid), nil)
}

func (m *machine) create(t *rapid.T) {
	name := machineNames.Draw(t, "name")
	m.same(t, m.kernel.Create(name), m.model.Create(name))
}

func (m *machine) remove(t *rapid.T) {
	name := m.name(t)
	m.same(t, m.kernel.Remove(name), m.model.Remove(name))
}

func (m *machine) add(t *rapid.T) {
	name, pid := m.name(t), m.pid(t)
	m.same(t, m.kernel.Add(name, pid), m.model.Add(name, pid))
}

func (m *machine) takeOut(t *rapid.T) {
	pid := m.pid(t)
	m.same(t, m.kernel.Add("/", pid), m.model.Add("/", pid))
}

func (m *machine) freeze(t *rapid.T) {
	name := m.name(t)
	err := m.kernel.Freeze(name)
	for tries := 0; freezer.Errno(err) == syscall.EBUSY && tries < 20; tries++ { // a slow machine
		err = m.kernel.Freeze(name)
	}
	m.same(t, err, m.model.Freeze(name))
}

func (m *machine) thaw(t *rapid.T) {
	name := m.name(t)
	m.same(t, m.kernel.Thaw(name), m.model.Thaw(name))
}

func (m *machine) kill(t *rapid.T) {
	name := m.name(t)
	err := m.kernel.Kill(name)
	for tries := 0; freezer.Errno(err) == syscall.EBUSY && tries < 20; tries++ {
		err = m.kernel.Kill(name)
	}
	m.same(t, err, m.model.Kill(name))
}

// signal does something to a process that has not ended.
func (m *machine) signal(do func(w freezertest.World, pid int)) func(*rapid.T) {
	return func(t *rapid.T) {
		pid := m.pid(t)
		if m.model.State(pid) == 'Z' {
			t.Skip("it is dead")
		}
		do(m.world, pid)
		do(m.model, pid)
	}
}

// agree compares all that can be seen, as soon as signals have acted.
func (m *machine) agree(t *rapid.T) {
	want, _ := m.model.List()
	got, err := m.kernel.List()
	if slices.Sort(got); err != nil || !slices.Equal(got, want) {
		t.Fatalf("groups are %q, %v; want %q", got, err, want)
	}
	for _, name := range want {
		states, _ := m.model.States(name)
		pids, _ := m.model.Processes(name)
		freezertest.Eventually(m.t, name+" is as in the model", func() bool {
			s, err := m.kernel.States(name)
			p, listErr := m.kernel.Processes(name)
			return err == nil && listErr == nil && s == states && slices.Equal(p, pids)
		})
	}
	for _, pid := range m.pids {
		// One that is frozen does not show that it is stopped, or about to be.
		switch want := m.model.State(pid); want {
		case 'Z', 'T':
			freezertest.Eventually(m.t, "the process ends or stops", func() bool {
				got := m.world.State(pid)
				return got == want || want == 'T' && got != 'Z' && got != 'R'
			})
		}
	}
}

func TestTheKernelDoesWhatTheModelDoes(t *testing.T) {
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		t.Run(backend, func(t *testing.T) {
			freezertest.Tree(t, backend) // skips where there is none
			rapid.Check(t, func(rt *rapid.T) {
				f, err := freezertest.Open(backend)
				if err != nil {
					rt.Fatal(err)
				}
				defer func() {
					if err := freezertest.RemoveTree(f); err != nil {
						t.Error(err)
					}
				}()
				m := &machine{t: t, model: freezertest.NewModel(backend == freezer.Cgroup2), world: freezertest.NewWorld(t)}
				m.kernel = freezertest.NewKernel(f).(interface {
					freezertest.System
					freezertest.Killer
				})
				rt.Repeat(map[string]func(*rapid.T){
					"start": m.start, "create": m.create, "remove": m.remove, "add": m.add, "take out": m.takeOut,
					"freeze": m.freeze, "thaw": m.thaw, "kill": m.kill,
					"stop":         m.signal(freezertest.World.Stop),
					"continue":     m.signal(freezertest.World.Continue),
					"kill process": m.signal(freezertest.World.KillProcess),
					"":             m.agree,
				})
			})
		})
	}
}
