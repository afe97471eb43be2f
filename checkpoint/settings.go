package checkpoint

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// Settings are rare ones that a process has as a whole, mostly of prctl(2), as its
// PR_GET_ calls have them. Zero is what a program begins with.
type Settings struct {
	NoHugePages   int  `json:"no_huge_pages,omitempty"`   // PR_SET_THP_DISABLE, with its flags
	MergeMemory   bool `json:"merge_memory,omitempty"`    // PR_SET_MEMORY_MERGE
	Membarrier    int  `json:"membarrier,omitempty"`      // MEMBARRIER_CMD_REGISTER_ of membarrier(2)
	NoNewPrograms int  `json:"no_new_programs,omitempty"` // PR_SET_MDWE: memory does not become executable
}

// ThreadSettings are those of each thread.
type ThreadSettings struct {
	Speculation  [2]int `json:"speculation,omitempty"`   // PR_SET_SPECULATION_CTRL: of stores, and of indirect branches
	MachineCheck int    `json:"machine_check,omitempty"` // PR_MCE_KILL, and 1 more
	IOFlusher    bool   `json:"io_flusher,omitempty"`    // PR_SET_IO_FLUSHER
}

// Numbers of prctl(2) that golang.org/x/sys has not, or under another name.
const (
	prMCEKill        = 33
	prMCEKillSet     = 1
	prSetSpeculation = 53
	prSetIOFlusher   = 57
	prSetMDWE        = 65
	prGetMDWE        = 66
	prSetMemoryMerge = 67
	specDisable      = 4
	specForceDisable = 8
)

// Flags in /proc/TID/stat, of linux/sched.h.
const (
	flagMCEProcess = 0x00000080 // PF_MCE_PROCESS: it has a policy of its own
	flagMCEEarly   = 0x08000000 // PF_MCE_EARLY
	flagNoIO       = 0x00080000 // PF_MEMALLOC_NOIO
	flagThrottle   = 0x00100000 // PF_LOCAL_THROTTLE, which is set together with it
)

// speculations are what a status file says of the settings that can be set again.
var speculations = map[string]int{
	"thread mitigated": specDisable, "thread force mitigated": specForceDisable,
	"conditional disabled": specDisable, "conditional force disabled": specForceDisable,
}

// settingsOf reads the settings that are seen from without.
func settingsOf(pid int, text func(string) string) (s Settings) {
	if text("THP_enabled") == "0" {
		s.NoHugePages = 1
	}
	merging, _ := kernfs.ReadFile(proc.Path(pid, "ksm_stat"))
	s.MergeMemory = strings.Contains(string(merging), "ksm_merge_any: yes")
	return s
}

// threadSettings reads the settings of a thread from its status file.
func threadSettings(tid int, text func(string) string) (s ThreadSettings) {
	s.Speculation = [2]int{speculations[text("Speculation_Store_Bypass")], speculations[text("SpeculationIndirectBranch")]}
	st, err := proc.ReadStat(tid)
	if err != nil {
		return s
	}
	if flags := st.Flags; flags&flagMCEProcess != 0 {
		s.MachineCheck = 1
		if flags&flagMCEEarly != 0 {
			s.MachineCheck = 2
		}
	}
	s.IOFlusher = st.Flags&(flagNoIO|flagThrottle) == flagNoIO|flagThrottle
	return s
}

// askSettings asks for what a process, or a copy of it, has set.
func (g *guest) askSettings(s *Settings) (err error) {
	if s.NoHugePages != 0 { // by its status
		if s.NoHugePages, err = g.call(unix.SYS_PRCTL, unix.PR_GET_THP_DISABLE); err != nil {
			return err
		}
	}
	if s.NoNewPrograms, err = g.call(unix.SYS_PRCTL, prGetMDWE); err == unix.EINVAL { // before Linux 6.3
		s.NoNewPrograms, err = 0, nil
	}
	return err
}

// getRegistrations asks membarrier(2) what a process has registered for; since Linux 6.3.
const (
	getRegistrations = 512                       // MEMBARRIER_CMD_GET_REGISTRATIONS
	registrations    = 1<<2 | 1<<4 | 1<<6 | 1<<8 // MEMBARRIER_CMD_REGISTER_
)

// askMembarrier asks for what only the process itself has.
func (g *guest) askMembarrier(s *Settings) (err error) {
	if s.Membarrier, err = g.call(unix.SYS_MEMBARRIER, getRegistrations, 0, 0); err == unix.EINVAL || err == unix.ENOSYS {
		s.Membarrier, err = 0, nil
	}
	return err
}

// set makes the settings that are there before the memory is.
func (s *Settings) set(w *worker) {
	if s.NoHugePages != 0 {
		w.do("switching huge pages off", unix.SYS_PRCTL, unix.PR_SET_THP_DISABLE, uintptr(s.NoHugePages&1), uintptr(s.NoHugePages&^1))
	}
}

// setLast makes those that would be in the way of the rest.
func (s *Settings) setLast(w *worker) {
	if s.MergeMemory {
		w.do("merging memory", unix.SYS_PRCTL, prSetMemoryMerge, 1)
	}
	for bit := 1; bit <= s.Membarrier; bit <<= 1 {
		if s.Membarrier&bit != 0 {
			w.do("registering for membarrier", unix.SYS_MEMBARRIER, uintptr(bit), 0, 0)
		}
	}
	if s.NoNewPrograms != 0 {
		w.do("keeping memory from being made executable", unix.SYS_PRCTL, prSetMDWE, uintptr(s.NoNewPrograms))
	}
}

// check says whether a process can have such settings.
func (s *Settings) check() bool {
	return s.Membarrier&^registrations == 0
}

func (s *ThreadSettings) set(w *worker) {
	for what, v := range s.Speculation {
		if v != 0 {
			w.do(fmt.Sprintf("speculation %d", what), unix.SYS_PRCTL, prSetSpeculation, uintptr(what), uintptr(v))
		}
	}
	if s.MachineCheck != 0 {
		w.do("what happens at a machine check", unix.SYS_PRCTL, prMCEKill, prMCEKillSet, uintptr(s.MachineCheck-1))
	}
	if s.IOFlusher {
		w.do("being a flusher of I/O", unix.SYS_PRCTL, prSetIOFlusher, 1)
	}
}
