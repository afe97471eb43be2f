package checkpoint

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// maxBases is how many images may build on each other.
const maxBases = 1000

// ordered sorts runs, and joins those that overlap; not those that only meet, which
// may be in two mappings.
func ordered(runs []run) (all []run) {
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.start, b.start) })
	for _, r := range runs {
		if last := len(all) - 1; last >= 0 && all[last].end > r.start {
			all[last].end = max(all[last].end, r.end)
		} else {
			all = append(all, r)
		}
	}
	return all
}

// openBase opens the image that another one builds on: where it was, or beside that
// one, if that is a file.
func (r *restorer) openBase(b *Base, beside *os.File) (*os.File, error) {
	if image := r.options.bases[b.ID]; image != nil {
		return os.Open(fmt.Sprintf("/proc/self/fd/%d", image.Fd()))
	}
	f, err := os.Open(b.Path)
	if err != nil && beside != nil {
		if other, e := os.Open(filepath.Join(filepath.Dir(beside.Name()), filepath.Base(b.Path))); e == nil {
			f, err = other, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the image builds on another one: %w", err)
	}
	return f, nil
}

// baseReader reads an image up to its memory, and makes sure that it is the base.
func baseReader(b *Base, f *os.File) (*reader, error) {
	in := newReader(f)
	job, err := in.begin()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if job.ID != b.ID {
		return nil, fmt.Errorf("%s is not the image that this one builds on: it was replaced", f.Name())
	}
	return in, nil
}

// fillFromBases stores what is as in the base, and as in that one's base, and so on.
// The memory is given by PID.
func (r *restorer) fillFromBases(b *Base, same map[int][]run, vessels []vessel, beside *os.File) error {
	byPID := map[int]*vessel{}
	for i := range r.job.Processes {
		byPID[r.job.Processes[i].PID] = &vessels[i]
	}
	for depth := 0; b != nil; depth++ {
		if depth > maxBases {
			return damaged("it builds on too many others")
		}
		f, err := r.openBase(b, beside)
		if err != nil {
			return err
		}
		in, err := baseReader(b, f)
		if err == nil {
			err = in.memory(func(o owner, address, length uint64, data []byte) error {
				if o.shared {
					return nil
				}
				pid := in.job.Processes[o.index].PID
				for _, part := range within([]run{{address, address + length}}, same[pid]) {
					if err := byPID[pid].fill(part, address, data); err != nil {
						return err
					}
				}
				return nil
			})
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		next := map[int][]run{}
		for i, runs := range in.same {
			pid := in.job.Processes[i].PID
			next[pid] = within(same[pid], ordered(runs))
		}
		b, same, beside = in.job.Base, next, f
	}
	return nil
}

// fill stores a part of what lies at an address; data is nil for zeros.
func (v *vessel) fill(part run, address uint64, data []byte) error {
	for part.start < part.end {
		to := min(part.end, part.start+maxPages)
		var b []byte
		if data != nil {
			b = data[part.start-address : to-address]
		} else {
			b = make([]byte, to-part.start)
		}
		if err := v.write(part.start, b); err != nil {
			return err
		}
		part.start = to
	}
	return nil
}
