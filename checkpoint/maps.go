package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// An area is a mapping as /proc/PID/smaps has it.
type area struct {
	start, end, offset uint64
	prot               int
	shared             bool
	device             uint64
	inode              string
	name               string
	flags              []string // VmFlags
}

func (a area) where() string { return fmt.Sprintf("mapping %x-%x", a.start, a.end) }

func (a area) mapFile(pid int) string {
	return proc.Path(pid, fmt.Sprintf("map_files/%x-%x", a.start, a.end))
}

// is says whether a mapping is of the file at a path. Some file systems show
// another device here than stat does; then only map_files can tell.
func (a area) is(path string) bool {
	id, err := inodeOf(path)
	return err == nil && id.dev == a.device && strconv.FormatUint(id.ino, 10) == a.inode
}

// readAreas reads maps or, with the flags, smaps: the kernel looks at each page for
// that, some 10 ms for a GiB.
func readAreas(pid int, file string) ([]area, error) {
	text, err := kernfs.ReadFile(proc.Path(pid, file))
	if err != nil {
		return nil, err
	}
	return parseAreas(text)
}

func parseAreas(text []byte) (all []area, err error) {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if flags, ok := bytes.CutPrefix(line, []byte("VmFlags:")); ok && len(all) > 0 {
			all[len(all)-1].flags = strings.Fields(string(flags))
			continue
		}
		if i := bytes.IndexByte(line, ' '); i < 0 || !bytes.Contains(line[:i], []byte("-")) || bytes.HasSuffix(line[:i], []byte(":")) {
			continue
		}
		a, ok := parseArea(string(line))
		if !ok {
			return nil, fmt.Errorf("%w: a mapping: %q", unix.EINVAL, line)
		}
		all = append(all, a)
	}
	return all, nil
}

// parseArea reads a line of the form of proc_pid_maps(5).
func parseArea(line string) (a area, ok bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 5 || len(f[1]) != 4 {
		return a, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	var errs [3]error
	a.start, errs[0] = strconv.ParseUint(from, 16, 64)
	a.end, errs[1] = strconv.ParseUint(to, 16, 64)
	a.offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
	for i, bit := range []int{unix.PROT_READ, unix.PROT_WRITE, unix.PROT_EXEC} {
		if f[1][i] != '-' {
			a.prot |= bit
		}
	}
	a.shared = f[1][3] == 's'
	major, minor, _ := strings.Cut(f[3], ":")
	ma, _ := strconv.ParseUint(major, 16, 32)
	mi, _ := strconv.ParseUint(minor, 16, 32)
	a.device = unix.Mkdev(uint32(ma), uint32(mi))
	a.inode = f[4]
	if len(f) == 6 {
		a.name = strings.TrimLeft(f[5], " ")
	}
	return a, errors.Join(errs[:]...) == nil
}

// vmFlags are the flags that a mapping may have; what is to be done for some.
var vmFlags = map[string]func(*Mapping){
	"rd": nil, "wr": nil, "ex": nil, "sh": nil, "mr": nil, "mw": nil, "me": nil, "ms": nil, // protections
	"ac": nil, "sd": nil, "mm": nil, "de": nil, "dw": nil,
	"gd": func(m *Mapping) { m.Flags |= unix.MAP_GROWSDOWN },
	"nr": func(m *Mapping) { m.Flags |= unix.MAP_NORESERVE },
	"lo": func(m *Mapping) { m.Locked = true },
	"sr": advice(unix.MADV_SEQUENTIAL),
	"rr": advice(unix.MADV_RANDOM),
	"dc": advice(unix.MADV_DONTFORK),
	"dd": advice(unix.MADV_DONTDUMP),
	"wf": advice(unix.MADV_WIPEONFORK),
	"hg": advice(unix.MADV_HUGEPAGE),
	"nh": advice(unix.MADV_NOHUGEPAGE),
	"mg": advice(unix.MADV_MERGEABLE),
}

// refusedFlags are the ones that it is known what to call.
var refusedFlags = map[string]string{
	"ht": "it is of huge pages (hugetlb)", "io": "it is a device's memory", "pf": "it is a device's memory",
	"um": "a userfaultfd watches it", "uw": "a userfaultfd watches it", "ui": "a userfaultfd watches it",
	"ss": "it is a shadow stack", "sl": "it is sealed (mseal)", "lf": "it is locked when it is touched (MLOCK_ONFAULT)",
	"mt": "it has memory tags",
}

func advice(n int) func(*Mapping) { return func(m *Mapping) { m.Advices = append(m.Advices, n) } }

// memory looks at the mappings of a process.
func (s *survey) memory(p *Process) {
	areas, err := readAreas(p.PID, "maps")
	if err != nil || len(areas) == 0 {
		s.hinder(p.PID, "memory", "it cannot be read: %v", err)
		return
	}
	p.Mappings = make([]Mapping, 0, len(areas))
	for _, a := range areas {
		if a.name == "[vsyscall]" {
			continue
		}
		m := Mapping{Start: a.start, End: a.end, Prot: a.prot, Offset: a.offset}
		s.classify(p, a, &m)
		p.Mappings = append(p.Mappings, m)
	}
	s.executable(p)
	s.kernelMappings(p)
}

// advise finds the flags of the mappings of a process, in itself or, from another
// PID, in a copy of it.
func (s *survey) advise(p *Process, pid int) error {
	areas, err := readAreas(pid, "smaps")
	if err != nil {
		return err
	}
	next := 0
	for i := range p.Mappings {
		m := &p.Mappings[i]
		for next < len(areas) && areas[next].start < m.Start {
			next++
		}
		if next == len(areas) || areas[next].start != m.Start || areas[next].end != m.End {
			return fmt.Errorf("process %d: its mapping %x-%x has gone", p.PID, m.Start, m.End)
		}
		if m.Kind != kindKernel {
			s.flags(p, areas[next], m)
		}
	}
	return nil
}

func (s *survey) flags(p *Process, a area, m *Mapping) {
	m.Flags, m.Locked, m.Advices = 0, false, nil
	if m.Kind == kindSharedFile && slices.Contains(a.flags, "mw") {
		s.job.Mapped[m.Object].Write = true
	}
	for _, f := range a.flags {
		do, known := vmFlags[f]
		if f == "uw" && s.tracked[p.PID] {
			continue
		} else if why := refusedFlags[f]; why != "" {
			s.hinder(p.PID, a.where(), "%s", why)
		} else if !known {
			s.hinder(p.PID, a.where(), "it has the unknown flag %s", f)
		}
		if do != nil {
			do(m)
		}
	}
}

// classify finds what kind of mapping this is.
func (s *survey) classify(p *Process, a area, m *Mapping) {
	hinder := func(format string, args ...any) { s.hinder(p.PID, a.where(), format, args...) }
	switch {
	case a.name == "[vdso]" || strings.HasPrefix(a.name, "[vvar"):
		m.Kind, m.Name = kindKernel, a.name
	case a.inode == "0" && !a.shared:
		m.Kind, m.Offset = kindPrivate, 0
		m.Name = strings.TrimSuffix(strings.TrimPrefix(a.name, "[anon:"), "]")
		if a.name == "[heap]" || a.name == "[stack]" {
			m.Name = a.name
		} else if a.name != "" && !strings.HasPrefix(a.name, "[anon:") {
			hinder("%s is unknown", a.name)
		}
	case a.shared && (a.name == "/dev/zero (deleted)" || strings.HasPrefix(a.name, "[anon_shmem:")):
		m.Kind = kindShared
		s.sharedMemory(p, a, m)
	case strings.HasPrefix(a.name, systemVPrefix) && strings.HasSuffix(a.name, deletedSuffix):
		m.Kind = kindShared
		s.systemV(p, a, m)
	case a.name == "/[aio] (deleted)":
		hinder("it is a ring of asynchronous I/O (io_setup)")
	case strings.HasPrefix(a.name, "anon_inode:"):
		hinder("it is of %s", strings.TrimPrefix(a.name, "anon_inode:"))
	case !strings.HasPrefix(a.name, "/"):
		hinder("%s is unknown", a.name)
	default:
		m.Kind = kindFile
		if a.shared {
			m.Kind = kindSharedFile
		}
		m.Object = s.mappedFile(p, a)
		if a.shared {
			s.maybeMemory(p, a, m.Object)
		}
	}
}

// sharedMemory notes memory that processes share without a file.
func (s *survey) sharedMemory(p *Process, a area, m *Mapping) {
	path := a.mapFile(p.PID)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		s.hinder(p.PID, a.where(), "shared memory cannot be read: %v", err)
		return
	}
	id := inode{st.Dev, st.Ino}
	i, ok := s.shared[id]
	if !ok {
		i = s.shareMemory(id, origin{p.PID, a.where(), path}, Shared{Size: wholePages(st.Size)})
	}
	m.Object = i
	s.withinShared(p, a, i)
}

func (s *survey) withinShared(p *Process, a area, i int) {
	if a.end-a.start > s.job.Shared[i].Size || a.offset > s.job.Shared[i].Size-(a.end-a.start) {
		s.hinder(p.PID, a.where(), "the mapping is longer than the shared memory")
	}
}

// mappedFile notes a file that is mapped, and makes sure that its path still
// leads to it.
func (s *survey) mappedFile(p *Process, a area) int {
	path := unescape(a.name)
	if i, seen := s.mapped[path]; seen {
		return i
	}
	id := mappedID{path, a.device, a.inode}
	m, known := s.before.mapped[id]
	if !known {
		if !a.is(path) {
			name := nameOf(a.mapFile(p.PID), path)
			if name == "" && strings.HasSuffix(path, deletedSuffix) {
				return s.mappedContents(p, a)
			}
			if name == "" {
				s.hinder(p.PID, a.where(), "its file was replaced: %s", path)
				return 0
			}
			path = name
		}
		var err error
		if m, err = mappedAt(path); err != nil {
			s.hinder(p.PID, a.where(), "its file: %v", err)
			return 0
		}
	}
	s.now.mapped[id] = m
	i, seen := s.mapped[m.Path]
	if !seen {
		i = len(s.job.Mapped)
		s.mapped[m.Path] = i
		s.job.Mapped = append(s.job.Mapped, m)
	}
	return i
}

// unescape undoes what the kernel does to newlines in paths.
func unescape(path string) string { return strings.ReplaceAll(path, `\012`, "\n") }

// mappedAt is a file as one that is mapped.
func mappedAt(path string) (Mapped, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Mapped{}, err
	}
	if !st.Mode().IsRegular() {
		return Mapped{}, fmt.Errorf("%s is no regular file", path)
	}
	return Mapped{Path: path, Size: st.Size(), Mtime: st.ModTime(), BuildID: buildID(path)}, nil
}

// same says why a file is not the one that was mapped; nil when it is.
func (m Mapped) same() error {
	if m.Contents != nil {
		return nil
	}
	now, err := mappedAt(m.Path)
	switch {
	case err != nil:
		return err
	case m.Write && now.Size >= m.Size: // its contents are its own affair
		return nil
	case now.Size == m.Size && now.Mtime.Equal(m.Mtime):
		return nil
	case m.BuildID != "" && now.BuildID == m.BuildID && now.Size == m.Size:
		return nil
	case m.BuildID != "":
		return fmt.Errorf("%s was replaced since: its build ID is %s and was %s", m.Path, now.BuildID, m.BuildID)
	}
	return fmt.Errorf("%s was changed since: it has %d bytes of %s and had %d of %s", m.Path,
		now.Size, now.Mtime.Format(time.DateTime), m.Size, m.Mtime.Format(time.DateTime))
}

// executable finds the program that a process runs.
func (s *survey) executable(p *Process) {
	path, err := os.Readlink(proc.Path(p.PID, "exe"))
	if err != nil {
		s.hinder(p.PID, "executable", "it cannot be read")
		return
	}
	i, ok := s.mapped[path]
	if !ok {
		if !sameFile(proc.Path(p.PID, "exe"), path) {
			s.hinder(p.PID, "executable", "%s was replaced or deleted", path)
			return
		}
		m, err := mappedAt(path)
		if err != nil {
			s.hinder(p.PID, "executable", "%v", err)
			return
		}
		i = len(s.job.Mapped)
		s.mapped[path] = i
		s.job.Mapped = append(s.job.Mapped, m)
	}
	p.Executable = i
}
