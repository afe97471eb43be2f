package checkpoint

import (
	"slices"
	"strings"
)

// What an image must be like before anything is built from it. That the kernel
// refuses is left to the kernel; here is what would make this program itself go
// wrong, or loop, or write where it must not.

const (
	maxPID  = 1 << 22
	maxFD   = 1 << 20
	maxAddr = 1 << 47
)

// check says what is wrong with a job.
func (j *Job) check() error {
	if len(j.Processes) == 0 {
		return damaged("it has no process")
	}
	if len(j.ID) > 64 || j.Base != nil && (j.Base.ID == "" || !clean(j.Base.Path)) {
		return damaged("its ID, or that of its base, cannot be")
	}
	ids := map[int]bool{}
	for i := range j.Processes {
		p := &j.Processes[i]
		if p.PID < 2 || p.PID > maxPID || ids[p.PID] {
			return damaged("process %d cannot be", p.PID)
		}
		if p.Parent != 0 && !ids[p.Parent] {
			return damaged("process %d comes before its parent", p.PID)
		}
		ids[p.PID] = true
		if err := j.checkProcess(p, ids); err != nil {
			return err
		}
	}
	for i := range j.Processes {
		p := &j.Processes[i]
		for _, leader := range []int{p.Session, p.ProcessGroup} {
			if leader != 0 && !ids[leader] {
				return damaged("process %d is led by none", p.PID)
			}
		}
	}
	for i, f := range j.Files {
		if f.Path != "" && !clean(f.Path) || f.Stream < 0 || f.Stream > 2 || f.Offset < 0 || f.Room < 0 || !f.checkPipe() || !f.checkPaths() || f.Owner != nil && !f.Owner.in(ids) || f.Kind == fileOfImage && !j.hasContents(f.Shared) {
			return damaged("file %d cannot be", i)
		}
	}
	if err := j.checkSockets(); err != nil {
		return err
	}
	if err := j.checkTerminals(); err != nil {
		return err
	}
	for _, m := range j.Mapped {
		if !clean(m.Path) || m.Contents != nil && !j.hasContents(*m.Contents) {
			return damaged("a mapped file has no path, or no contents")
		}
	}
	for _, s := range j.Shared {
		if s.Size == 0 && s.Contents == nil || s.Size%pageSize != 0 || s.Size > maxAddr || s.Contents != nil && !s.Contents.check(s.Size) {
			return damaged("shared memory cannot have %d bytes", s.Size)
		}
	}
	return nil
}

// hasContents says whether a file's contents can be there in Shared.
func (j *Job) hasContents(i int) bool {
	return i >= 0 && i < len(j.Shared) && !j.Shared[i].inMemory()
}

func clean(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.Contains(path, "\x00") && len(path) < 4096
}

func (j *Job) checkProcess(p *Process, ids map[int]bool) error {
	bad := func(what string) error { return damaged("the %s of process %d cannot be", what, p.PID) }
	if strings.HasPrefix(p.Group, "/") || slices.Contains(strings.Split(p.Group, "/"), "..") {
		return bad("group")
	}
	if p.Ended != nil {
		if len(p.Threads) > 0 || len(p.Mappings) > 0 || len(p.Descriptors) > 0 {
			return bad("end")
		}
		return nil
	}
	if len(p.Threads) == 0 || p.Threads[0].TID != p.PID {
		return bad("threads")
	}
	for i, t := range p.Threads {
		if t.TID < 2 || t.TID > maxPID || i > 0 && ids[t.TID] {
			return bad("threads")
		}
		ids[t.TID] = true
		if len(t.State) < 576 || len(t.State) > 64<<10 || len(t.Stack) != 24 || !wholeSignals(t.Pending) || !t.checkFilters() || t.Left != nil && *t.Left < 0 {
			return bad("thread")
		}
	}
	for i, m := range p.Mappings {
		if m.Start >= m.End || m.Start%pageSize != 0 || m.End%pageSize != 0 || m.End > maxAddr || m.Start < pageSize ||
			i > 0 && m.Start < p.Mappings[i-1].End || len(m.Name) > 4096 || len(m.Advices) > 64 {
			return bad("memory")
		}
		switch m.Kind {
		case kindPrivate, kindKernel:
		case kindShared:
			if m.Object < 0 || m.Object >= len(j.Shared) || !j.Shared[m.Object].inMemory() || m.Offset > j.Shared[m.Object].Size || m.End-m.Start > j.Shared[m.Object].Size-m.Offset {
				return bad("shared memory")
			}
		case kindFile, kindSharedFile:
			if m.Object < 0 || m.Object >= len(j.Mapped) || m.Offset%pageSize != 0 {
				return bad("mapped files")
			}
		default:
			return bad("memory")
		}
	}
	if p.Executable < 0 || p.Executable >= len(j.Mapped) || !clean(p.Directory) {
		return bad("files")
	}
	for i, d := range p.Descriptors {
		if d.FD < 0 || d.FD > maxFD || d.File < 0 || d.File >= len(j.Files) || i > 0 && d.FD <= p.Descriptors[i-1].FD {
			return bad("descriptors")
		}
	}
	for _, l := range p.Locks {
		if !l.check() || !slices.ContainsFunc(p.Descriptors, func(d Descriptor) bool { return d.FD == l.FD }) {
			return bad("locks")
		}
	}
	for i, before := 0, -1; i < len(p.PosixTimers); i++ {
		if !p.PosixTimers[i].check(before) {
			return bad("timers")
		}
		before = p.PosixTimers[i].ID
	}
	for _, h := range p.Handlers {
		if h.Signal < 1 || h.Signal > 64 || len(h.Action) != 32 {
			return bad("signals")
		}
	}
	if !p.Settings.check() || !wholeSignals(p.Pending) || len(p.Limits) > 16 || len(p.Layout.Auxv) > 4096 || len(p.Identity.Groups) > 65536 {
		return bad("state")
	}
	return nil
}

func wholeSignals(all [][]byte) bool {
	return !slices.ContainsFunc(all, func(s []byte) bool { return len(s) != 128 })
}

// holds says whether there is room for such memory.
func (j *Job) holds(o owner, address, length uint64) bool {
	end := address + length
	if length == 0 || address%pageSize != 0 || length%pageSize != 0 || end < address {
		return false
	}
	if o.shared {
		return o.index < len(j.Shared) && end <= j.Shared[o.index].Size
	}
	if o.index >= len(j.Processes) {
		return false
	}
	return mapping(j.Processes[o.index].Mappings, address, end) != nil
}

// mapping finds the private mapping that has all of a range.
func mapping(all []Mapping, start, end uint64) *Mapping {
	i, found := slices.BinarySearchFunc(all, start, func(m Mapping, a uint64) int {
		switch {
		case m.End <= a:
			return -1
		case m.Start > a:
			return 1
		}
		return 0
	})
	if !found || end > all[i].End || all[i].Kind != kindPrivate && all[i].Kind != kindFile {
		return nil
	}
	return &all[i]
}
