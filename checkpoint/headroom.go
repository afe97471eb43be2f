package checkpoint

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/mountinfo"
	"github.com/cgfreezer/freezer/internal/proc"
)

// As long as there is a copy of a process, each page that one of the two writes
// exists twice, and the group's memory limit counts both. So there must be room for
// all of its private memory once more, or the job could be killed for the sake of
// its image.

// shortage says why there is no room for copies of all processes; empty when there
// is.
func (s *survey) shortage() string {
	need, members := uint64(0), []int{}
	for _, p := range s.job.Processes {
		if p.Ended == nil {
			need += statusKiB(proc.Status(p.PID, "RssAnon")) + statusKiB(proc.Status(p.PID, "VmSwap"))
			members = append(members, p.PID)
		}
	}
	if free, ok := available(); ok && free < need {
		return fmt.Sprintf("copies may need %s, and the host has %s", mib(need), mib(free))
	}
	mounts, err := mountinfo.Self()
	if err != nil {
		return ""
	}
	for _, pid := range members {
		groups, _ := proc.Cgroups(pid)
		for _, g := range groups {
			for _, m := range mounts {
				if g.V2 && m.Type == "cgroup2" || g.Has("memory") && m.Type == "cgroup" && m.HasController("memory") {
					if dir, free := tightest(m, g.Path); free < need {
						return fmt.Sprintf("copies may need %s, and the memory limit of %s leaves %s", mib(need), dir, mib(free))
					}
				}
			}
		}
	}
	return ""
}

func mib(bytes uint64) string { return fmt.Sprintf("%d MiB", bytes>>20) }

// statusKiB is a size in a status file, such as "12 kB", in bytes.
func statusKiB(text string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSuffix(text, " kB"), 10, 64)
	return n << 10
}

// available is how much memory the host could give.
func available() (uint64, bool) {
	text, err := kernfs.ReadFile("/proc/meminfo")
	value := proc.StatusField(text, "MemAvailable")
	return statusKiB(value), err == nil && value != ""
}

// tightest finds, of a cgroup and those above it, the one whose limit leaves least.
func tightest(m mountinfo.Mount, path string) (in string, free uint64) {
	free = ^uint64(0)
	for ; ; path = filepath.Dir(path) {
		dir := filepath.Join(m.Point, path)
		limit, used := "memory.max", "memory.current"
		if m.Type == "cgroup" {
			limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
		}
		most, err := number64(filepath.Join(dir, limit)) // "max" is no number
		now, err2 := number64(filepath.Join(dir, used))
		if err == nil && err2 == nil {
			if left := most - min(most, now); left < free {
				in, free = dir, left
			}
		}
		if path == "/" || path == "." {
			return in, free
		}
	}
}

func number64(file string) (uint64, error) {
	text, err := kernfs.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
