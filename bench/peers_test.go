// Package bench compares this project with its peers, as they come. It is a
// module of its own, so that nobody else depends on them.
package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	containerd1 "github.com/containerd/cgroups/v3/cgroup1"
	containerd2 "github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/cgroups"
	opencontainers1 "github.com/opencontainers/cgroups/fs"
	opencontainers2 "github.com/opencontainers/cgroups/fs2"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/freezertest"
)

func TestMain(m *testing.M) { freezertest.Main(m) }

// BenchmarkPeers freezes one group, or many, which the peers freeze one after
// the other.
func BenchmarkPeers(b *testing.B) {
	waits, runs := []string{"cat"}, []string{"sh", "-c", "while :; do :; done"}
	for _, backend := range []string{freezer.Cgroup2, freezer.Cgroup1} {
		for _, load := range []struct {
			name          string
			groups, tasks int
			command       []string
			rounds        int
		}{
			{"1-waiting", 1, 1, waits, 200},
			{"100-waiting", 1, 100, waits, 50},
			{"1000-waiting", 1, 1000, waits, 20},
			{"2-busy", 1, 2, runs, 100},
			{"16-busy", 1, 16, runs, 30},
			{"1000-groups", 1000, 1, waits, 1},
		} {
			b.Run(backend+"/"+load.name, func(b *testing.B) {
				f := freezertest.Tree(b, backend)
				var gang freezer.Gang
				for i := range load.groups {
					g, err := f.Create("g" + strconv.Itoa(i))
					if err != nil {
						b.Fatal(err)
					}
					gang = append(gang, g)
				}
				fill(b, gang, load.tasks, load.command)
				compare(b, f, gang, max(b.N, load.rounds))
			})
		}
	}
}

// fill starts a command several times in each group. Nothing ever comes from
// its input.
func fill(b *testing.B, gang freezer.Gang, tasks int, command []string) {
	input, output, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = input.Close(), output.Close() })
	for _, g := range gang {
		for range tasks {
			cmd := exec.Command(command[0], command[1:]...)
			cmd.Stdin = input
			freezertest.Run(b, cmd)
			if err := g.Add(cmd.Process.Pid); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// compare reports the median of ours, and for each peer its median and how many
// times ours that is; how often it slept, and how many times ours it took then;
// and how often all was FROZEN when it said so.
func compare(b *testing.B, f *freezer.Freezer, gang freezer.Gang, rounds int) {
	warm := warmer(b, f)
	var ways []freezertest.Way
	frozen := map[string]int{}
	add := func(name string, warmed bool, freeze func() error) {
		ways = append(ways, freezertest.Way{
			Name: name,
			Do:   freeze,
			Before: func() error {
				time.Sleep(3*time.Millisecond + time.Duration(len(gang))*30*time.Microsecond)
				return warm(warmed)
			},
			After: func() error {
				if all(gang, freezer.Frozen) {
					frozen[name]++
				}
				return gang.Thaw()
			},
		})
	}
	add("freezer", true, func() error { return gang.Freeze(b.Context()) })
	for name, freeze := range peers(f) {
		add(name, false, func() error {
			for _, g := range gang {
				_ = freeze(g) // a peer that gives up shows in frozen-%
			}
			return nil
		})
	}
	took := freezertest.Interleave(b, rounds, ways)
	ours := freezertest.Percentile(took[0], 50)
	b.ReportMetric(0, "ns/op")
	for i, way := range ways {
		name, all := way.Name+"-", took[i]
		b.ReportMetric(100*float64(frozen[way.Name])/float64(rounds), name+"frozen-%")
		b.ReportMetric(float64(freezertest.Percentile(all, 50)), name+"p50-ns")
		if i == 0 {
			continue
		}
		b.ReportMetric(float64(freezertest.Percentile(all, 50))/float64(ours), name+"x-ours")
		slept := slices.DeleteFunc(slices.Clone(all), func(d time.Duration) bool { return d < ours+time.Millisecond })
		b.ReportMetric(100*float64(len(slept))/float64(rounds), name+"slept-%")
		if len(slept) > 0 {
			b.ReportMetric(float64(freezertest.Percentile(slept, 50))/float64(ours), name+"slept-x-ours")
		}
	}
}

func all(gang freezer.Gang, want freezer.State) bool {
	for _, g := range gang {
		if state, err := g.State(); err != nil || state != want {
			return false
		}
	}
	return true
}

// peers are the ways in which others freeze a group.
func peers(f *freezer.Freezer) map[string]func(*freezer.Group) error {
	path := func(g *freezer.Group) string { return strings.TrimPrefix(g.Dir(), f.Mount()) }
	if f.Backend() == freezer.Cgroup2 {
		return map[string]func(*freezer.Group) error{
			"opencontainers": func(g *freezer.Group) error {
				m, err := opencontainers2.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, g.Dir())
				if err != nil {
					return err
				}
				return m.Freeze(cgroups.Frozen)
			},
			"containerd": func(g *freezer.Group) error {
				m, err := containerd2.Load(path(g), containerd2.WithMountpoint(f.Mount()))
				if err != nil {
					return err
				}
				return m.Freeze()
			},
		}
	}
	all := map[string]func(*freezer.Group) error{
		"opencontainers": func(g *freezer.Group) error {
			var c opencontainers1.FreezerGroup
			return c.Set(g.Dir(), &cgroups.Resources{Freezer: cgroups.Frozen})
		},
	}
	if filepath.Base(f.Mount()) == "freezer" { // where that one looks
		c := containerd1.NewFreezer(filepath.Dir(f.Mount()))
		all["containerd"] = func(g *freezer.Group) error { return c.Freeze(path(g)) }
	}
	return all
}

// warmer makes cgroup1 as fast as our own Freeze leaves it, or as slow as it is
// without.
func warmer(b *testing.B, f *freezer.Freezer) func(bool) error {
	if f.Backend() != freezer.Cgroup1 {
		return func(bool) error { return nil }
	}
	g, err := f.Create("warm")
	if err != nil {
		b.Fatal(err)
	}
	return func(on bool) error {
		if err := f.Clean(); err != nil {
			return err
		}
		word := "THAWED"
		if on {
			word = "FROZEN"
		}
		return os.WriteFile(g.Dir()+"/freezer.state", []byte(word), 0)
	}
}
