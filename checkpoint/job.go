package checkpoint

import (
	"time"

	"github.com/cgfreezer/freezer/internal/ptrace"
)

// A Job is what an image says of the processes in it, all but the contents of
// their memory. Addresses and sizes are in bytes; numbers of files and shared
// memory are indexes into the lists here.
type Job struct {
	ID        string     `json:"id"`             // of the image: no other has it
	Base      *Base      `json:"base,omitempty"` // it has only what changed since
	Group     string     `json:"group"`          // that it was taken from
	Taken     time.Time  `json:"taken"`
	Host      string     `json:"host"`
	Kernel    string     `json:"kernel"`
	VDSO      string     `json:"vdso"`         // a hash of the kernel's code in each process
	Features  uint64     `json:"cpu_features"` // the processor's XCR0
	Processes []Process  `json:"processes"`    // parents before children
	Files     []File     `json:"files"`
	Terminals []Terminal `json:"terminals,omitempty"`
	Shared    []Shared   `json:"shared"`
	Mapped    []Mapped   `json:"mapped"`
}

// A Base is the image that another one builds on: memory that was not written since
// is only there.
type Base struct {
	ID   string `json:"id"`
	Path string `json:"path"` // where it was when the other one was written
}

// A Process is one process of a job. The first of its Threads is the one whose
// TID is the PID.
type Process struct {
	PID          int      `json:"pid"`
	Parent       int      `json:"parent"`               // 0: outside of the job
	Session      int      `json:"session"`              // 0: the session is led from outside
	ProcessGroup int      `json:"process_group"`        // 0: the same
	Terminal     int      `json:"terminal,omitempty"`   // that controls the session which it leads: 1 for the first of Terminals, 0: none
	Foreground   int      `json:"foreground,omitempty"` // the process group in the foreground there
	Group        string   `json:"group"`                // below the job's; empty for the job's own
	Command      string   `json:"command"`              // at most 15 bytes
	Arguments    []string `json:"arguments"`
	ExitSignal   int      `json:"exit_signal"`
	Ended        *int     `json:"ended,omitempty"` // the wait status of a zombie, which has nothing else

	Stopped bool `json:"stopped,omitempty"` // by SIGSTOP or ^Z
	Told    bool `json:"told,omitempty"`    // its parent knows that

	Threads     []Thread     `json:"threads"`
	Mappings    []Mapping    `json:"mappings"`
	Layout      Layout       `json:"layout"`
	Executable  int          `json:"executable"` // in Mapped
	Descriptors []Descriptor `json:"descriptors"`
	Locks       []Lock       `json:"locks,omitempty"`
	Directory   string       `json:"directory"`
	Umask       int          `json:"umask"`
	Handlers    []Handler    `json:"handlers"`
	Pending     [][]byte     `json:"pending"` // siginfo_t of signals that wait for the process
	Timers      [3]Timer     `json:"timers"`  // setitimer(2): real, virtual, profiling
	PosixTimers []PosixTimer `json:"posix_timers,omitempty"`
	Limits      [][2]uint64  `json:"limits"` // soft and hard, by their RLIMIT_ numbers
	Personality uint64       `json:"personality"`
	Dumpable    int          `json:"dumpable"`
	Settings    Settings     `json:"settings,omitzero"`
	Subreaper   int32        `json:"subreaper"`
	OOMScore    int          `json:"oom_score_adj"`
	Identity    Identity     `json:"identity"`
}

// stateOf is the XSAVE area of a process's first thread.
func (p *Process) stateOf() []byte {
	if len(p.Threads) == 0 {
		return nil
	}
	return p.Threads[0].State
}

// A Thread is one task of a process.
type Thread struct {
	TID       int         `json:"tid"`
	Command   string      `json:"command"`
	Registers ptrace.Regs `json:"registers"`
	State     []byte      `json:"state"` // XSAVE area
	Blocked   uint64      `json:"blocked"`

	Left *time.Duration `json:"left_ns,omitempty"` // of the timeout of the system call that starts again

	Pending     [][]byte       `json:"pending"`
	Stack       []byte         `json:"stack"` // stack_t of sigaltstack(2)
	ClearTID    uint64         `json:"clear_tid"`
	RobustList  [2]uint64      `json:"robust_list"` // address and size of its head
	Rseq        ptrace.Rseq    `json:"rseq"`
	DeathSignal int32          `json:"death_signal"`
	TimerSlack  uint64         `json:"timer_slack"` // ns
	Scheduling  []byte         `json:"scheduling"`  // struct sched_attr
	Affinity    []byte         `json:"affinity"`
	IOPriority  int            `json:"io_priority"`
	Settings    ThreadSettings `json:"settings,omitzero"`
	Filters     []Filter       `json:"filters,omitempty"` // seccomp(2)
}

// A Mapping is a range of a process's memory.
type Mapping struct {
	Start   uint64 `json:"start"`
	End     uint64 `json:"end"`
	Prot    int    `json:"prot"`           // PROT_
	Kind    string `json:"kind"`           // private, shared, file, shared file, kernel
	Object  int    `json:"object"`         // in Mapped, or Shared
	Offset  uint64 `json:"offset"`         // in it
	Name    string `json:"name,omitempty"` // [heap], [stack], or of PR_SET_VMA_ANON_NAME
	Flags   int    `json:"flags"`          // MAP_GROWSDOWN, MAP_NORESERVE
	Locked  bool   `json:"locked,omitempty"`
	Advices []int  `json:"advices,omitempty"` // of madvise(2)
}

// The kinds of mappings.
const (
	kindPrivate    = "private"
	kindShared     = "shared"
	kindFile       = "file"
	kindSharedFile = "shared file"
	kindKernel     = "kernel" // vdso and vvar
)

// A Layout is what PR_SET_MM_MAP sets.
type Layout struct {
	StartCode, EndCode, StartData, EndData, StartBrk, Brk, StartStack uint64
	ArgStart, ArgEnd, EnvStart, EnvEnd                                uint64
	Auxv                                                              []byte
}

// A Descriptor is a descriptor of a process.
type Descriptor struct {
	FD          int  `json:"fd"`
	File        int  `json:"file"`
	CloseOnExec bool `json:"close_on_exec,omitempty"`
}

// A File is an open file, which descriptors of several processes may share.
type File struct {
	Kind     string        `json:"kind"`
	Path     string        `json:"path,omitempty"`
	Flags    int           `json:"flags"` // O_
	Offset   int64         `json:"offset,omitempty"`
	Size     int64         `json:"size,omitempty"`
	Mtime    time.Time     `json:"mtime,omitzero"`
	Tail     uint32        `json:"tail,omitempty"`     // CRC32C of the last bytes, to know what only grew
	Count    uint64        `json:"count,omitempty"`    // of an eventfd
	Clock    int           `json:"clock,omitempty"`    // of a timerfd
	Timer    Timer         `json:"timer,omitzero"`     // of a timerfd, in ns
	Mask     uint64        `json:"mask,omitempty"`     // of a signalfd
	Pipe     uint64        `json:"pipe,omitempty"`     // both ends have the same number
	Data     []byte        `json:"data,omitempty"`     // that is in a pipe, with its read end
	Room     int           `json:"room,omitempty"`     // of a pipe
	Packets  []int         `json:"packets,omitempty"`  // the lengths of those that the data is made of (O_DIRECT)
	Paths    []WatchedPath `json:"paths,omitempty"`    // of an inotify
	Owner    *Owner        `json:"owner,omitempty"`    // who gets signals
	Watch    []Watch       `json:"watch,omitempty"`    // of an epoll
	Stream   int           `json:"stream,omitempty"`   // of what goes outside: 0, 1 or 2
	Shared   int           `json:"shared,omitempty"`   // in Job.Shared, of one whose contents are in the image
	Terminal int           `json:"terminal,omitempty"` // in Terminals
	Socket   *Socket       `json:"socket,omitempty"`
}

// The kinds of open files.
const (
	fileRegular     = "file"
	fileDirectory   = "directory"
	fileDevice      = "device"
	fileControl     = "control file" // of a cgroup, or of /proc
	filePipe        = "pipe"
	fileEvent       = "eventfd"
	fileTimer       = "timerfd"
	fileSignal      = "signalfd"
	fileInotify     = "inotify"
	filePoll        = "epoll"
	fileOfImage     = "file in the image"
	fileSocket      = "socket"
	fileTerminal    = "terminal"
	fileMaster      = "terminal master"
	fileControlling = "controlling terminal" // opened as /dev/tty
	fileOutside     = "outside"              // a terminal, pipe or socket of others, as a standard stream
)

// A Watch is a file that an epoll waits for.
type Watch struct {
	FD     int    `json:"fd"`
	Events uint32 `json:"events"`
	Data   uint64 `json:"data"`
}

// Shared is memory that several processes may map, or have open when it is a
// file's.
type Shared struct {
	Size     uint64    `json:"size"`
	Contents *Contents `json:"contents,omitempty"` // nil: it has no file
}

// inMemory says whether mappings are of it as such, and not of its file.
func (s *Shared) inMemory() bool { return s.Contents == nil || s.Contents.Kind == contentsSystemV }

// A Mapped file is an executable, a library or data that is mapped.
type Mapped struct {
	Path    string    `json:"path"`
	Size    int64     `json:"size"`
	Mtime   time.Time `json:"mtime"`
	BuildID string    `json:"build_id,omitempty"`
	Write   bool      `json:"write,omitempty"` // it is shared, and may be written

	Contents *int `json:"contents,omitempty"` // in Job.Shared, where they are in the image
}

// A Handler is what a process does with a signal, other than by default.
type Handler struct {
	Signal int    `json:"signal"`
	Action []byte `json:"action"` // the kernel's struct sigaction
}

// A Timer is its interval and what is left until it ends, in the two words of
// each that the kernel has.
type Timer [4]int64

// An Identity is whom a process acts for.
type Identity struct {
	UIDs       [4]int    `json:"uids"` // real, effective, saved, file system
	GIDs       [4]int    `json:"gids"`
	Groups     []int     `json:"groups"`
	Caps       [5]uint64 `json:"capabilities"` // inheritable, permitted, effective, bounding, ambient
	NoNewPrivs bool      `json:"no_new_privs"`
	SecureBits int       `json:"securebits"`
}
