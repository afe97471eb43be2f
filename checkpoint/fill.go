package checkpoint

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// A vessel is a process whose memory is to be filled.
type vessel struct {
	pid      int
	mem      int // its mem file, for what it may not write itself
	pager    *pager
	mappings []Mapping
}

// vessels prepares all processes of the job.
func (r *restorer) vessels() (all []vessel, err error) {
	all = make([]vessel, len(r.built))
	for i, w := range r.built {
		v := &all[i]
		if v.mem = -1; w == nil {
			continue
		}
		v.pid, v.mappings = w.pid, r.job.Processes[i].Mappings
		if v.mem, err = unix.Open(proc.Path(w.pid, "mem"), unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return all, err
		}
		if v.pager, err = newPager(w, v.mappings); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (v *vessel) close() {
	if v.mem >= 0 {
		unix.Close(v.mem)
	}
	v.pager.close()
}

// write fills memory that is in one mapping, in the way that is the fastest there.
func (v *vessel) write(at uint64, b []byte) error {
	m := mapping(v.mappings, at, at+uint64(len(b)))
	switch {
	case v.pager.has(m):
		return v.pager.fill(v.mem, at, b)
	case m.Prot&unix.PROT_WRITE == 0:
		return writeMemory(v.pid, v.mem, at, b)
	}
	return writeMemory(v.pid, -1, at, b)
}

// fill puts the image's memory in its place.
func (r *restorer) fill(in *reader) error {
	vessels, err := r.vessels()
	defer func() {
		for i := range vessels {
			vessels[i].close()
		}
	}()
	if err != nil {
		return err
	}
	if err := r.fillOwn(in, vessels); err != nil || r.job.Base == nil {
		return err
	}
	same := map[int][]run{}
	for i, runs := range in.same {
		same[r.job.Processes[i].PID] = ordered(runs)
	}
	return r.fillFromBases(r.job.Base, same, vessels, in.file)
}

// fillOwn stores what the image itself has.
func (r *restorer) fillOwn(in *reader, vessels []vessel) error {
	zeros := make([]byte, maxPages)
	return in.memory(func(o owner, address, length uint64, data []byte) error {
		var v *vessel
		if !o.shared {
			if v = &vessels[o.index]; v.pid == 0 {
				return damaged("a process that ended has memory")
			}
		}
		for length > 0 {
			b := data
			if b == nil {
				b = zeros[:min(length, uint64(len(zeros)))]
			}
			var err error
			if v != nil {
				err = v.write(address, b)
			} else if r.contents[o.index].fill >= 0 {
				err = r.fillContents(o.index, address, b)
			} else {
				err = writeMemory(r.nursery.pid, -1, r.sharedAt[o.index]+address, b)
			}
			if err != nil {
				return err
			}
			address, length = address+uint64(len(b)), length-uint64(len(b))
		}
		return nil
	})
}

// usesHugePages says whether a mapping is advised to use huge pages, which the
// kernel gives to who writes, but not page by page.
func (m *Mapping) usesHugePages() bool { return slices.Contains(m.Advices, unix.MADV_HUGEPAGE) }
