package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// The bits of an entry of /proc/PID/pagemap.
const (
	pageIsFile    = 1 << 61 // or shared
	pageSwapped   = 1 << 62
	pageInMemory  = 1 << 63
	pagesAtOnce   = 8192
	bytesPerEntry = 8
)

// readPresent is presentIn by reading /proc/PID/pagemap.
func readPresent(pagemap int, start, end uint64) (runs []run, err error) {
	buf := make([]byte, min((end-start)/pageSize, pagesAtOnce)*bytesPerEntry)
	for at := start; at < end; {
		part := buf[:min(uint64(len(buf)), (end-at)/pageSize*bytesPerEntry)]
		n, err := unix.Pread(pagemap, part, int64(at/pageSize*bytesPerEntry))
		if err != nil {
			return nil, err
		}
		if n < bytesPerEntry {
			return nil, fmt.Errorf("the page map ends at %x", at)
		}
		for i := 0; i+bytesPerEntry <= n; i += bytesPerEntry {
			e := get64(part[i:])
			if e&(pageInMemory|pageSwapped) != 0 && e&pageIsFile == 0 {
				if last := len(runs) - 1; last >= 0 && runs[last].end == at {
					runs[last].end += pageSize
				} else {
					runs = append(runs, run{at, at + pageSize})
				}
			}
			at += pageSize
		}
	}
	return runs, nil
}

// A source is memory of one owner that an image is to have.
type source struct {
	owner owner
	runs  []run
	zeros bool                            // it would not be zero by itself, so zeros are written, too
	read  func(b []byte, at uint64) error // by several at once
}

// Sources are what is read of one or more processes, and the files for that.
type sources struct {
	all   []source
	same  []source // as in the base, which is not read
	files []int
}

func (s *sources) close() {
	for _, fd := range s.files {
		unix.Close(fd)
	}
}

func (s *sources) open(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		s.files = append(s.files, fd)
	}
	return fd, err
}

// process adds what a process has in those of its private mappings that are
// wanted. It is read from the process pid: itself or its copy. since, if not nil, is
// what it has written since the base.
func (s *sources) process(index int, p *Process, pid int, since *tracked, wanted func(*Mapping) bool) error {
	pagemap, err := s.open(proc.Path(pid, "pagemap"))
	if err != nil {
		return err
	}
	mem, err := s.open(proc.Path(pid, "mem"))
	if err != nil {
		return err
	}
	for i := range p.Mappings {
		m := &p.Mappings[i]
		if m.Kind != kindPrivate && m.Kind != kindFile || !wanted(m) {
			continue
		}
		runs, err := presentIn(pagemap, m.Start, m.End, m.Kind == kindFile)
		if err != nil {
			return fmt.Errorf("the memory of process %d at %x: %w", p.PID, m.Start, err)
		}
		read := func(b []byte, at uint64) error {
			if err := readMemory(mem, b, at); err != nil {
				return fmt.Errorf("the memory of process %d at %x: %w", p.PID, at, err)
			}
			return nil
		}
		if written, ok := since.writtenIn(m); ok {
			if m.Kind == kindFile {
				// Where such pages were given back the kernel leaves a mark, which looks like
				// a page in swap.
				gone, err := scan(pagemap, m.Start, m.End, scanning{all: isSwapped})
				if err != nil {
					return err
				}
				written = ordered(slices.Concat(written, gone))
			}
			s.same = append(s.same, source{owner: owner{index: index}, runs: without(runs, written)})
			runs = within(runs, written)
		}
		s.all = append(s.all, source{owner{index: index}, runs, m.Kind == kindFile, read})
	}
	return nil
}

// shared adds what is in shared memory.
func (s *sources) shared(index int, path string, size uint64) error {
	fd, err := s.open(path)
	if err != nil {
		return fmt.Errorf("shared memory: %w", err)
	}
	var runs []run
	for at := int64(0); uint64(at) < size; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		to, err2 := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil || err2 != nil {
			return fmt.Errorf("shared memory: %w", errors.Join(err, err2))
		}
		runs = append(runs, run{uint64(from) / pageSize * pageSize, min(size, (uint64(to)+pageSize-1)/pageSize*pageSize)})
		at = to
	}
	read := func(b []byte, at uint64) error {
		for len(b) > 0 {
			n, err := unix.Pread(fd, b, int64(at))
			if err == nil && n == 0 {
				clear(b) // what is behind the end of the file
				return nil
			}
			if err != nil && err != unix.EINTR {
				return fmt.Errorf("shared memory: %w", err)
			}
			n = max(n, 0)
			b, at = b[n:], at+uint64(n)
		}
		return nil
	}
	s.all = append(s.all, source{owner{true, index}, runs, false, read})
	return nil
}

// readMemory reads from a process's mem file. process_vm_readv is faster, but pins
// the pages, for which the kernel gives a process that shares them (a copy, a child)
// pages of its own: 512 MiB of a copy then take as much memory once more.
func readMemory(mem int, b []byte, at uint64) error {
	for len(b) > 0 {
		n, err := unix.Pread(mem, b, int64(at))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EFAULT
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+uint64(n)
	}
	return nil
}

var zeroPage [pageSize]byte

// A chunk is a piece of memory on its way into an image.
type chunk struct {
	source *source
	at     uint64
	data   []byte
	err    error
	read   chan struct{} // closed when it is there
}

// chunks calls use for each chunk of the sources, in order, while others are being
// read. What it gets is overwritten when it has returned.
func (s *sources) chunks(use func(*chunk) error) error {
	const readers, buffers = 2, 6
	free := make(chan []byte, buffers)
	for range buffers {
		free <- nil // made when it is needed
	}
	work, queue, quit := make(chan *chunk), make(chan *chunk, buffers), make(chan struct{})
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for c := range work {
				c.err = c.source.read(c.data, c.at)
				close(c.read)
			}
		})
	}
	all.Go(func() {
		defer close(queue)
		defer close(work)
		for i := range s.all {
			for _, r := range s.all[i].runs {
				for at := r.start; at < r.end; {
					var b []byte
					select {
					case b = <-free:
					case <-quit:
						return
					}
					size := min(maxPages, r.end-at)
					if uint64(cap(b)) < size {
						b = make([]byte, size)
					}
					c := &chunk{source: &s.all[i], at: at, data: b[:size], read: make(chan struct{})}
					queue <- c // there is room for as many as there are buffers
					work <- c
					at += size
				}
			}
		}
	})
	defer all.Wait()
	defer close(quit)
	for c := range queue {
		<-c.read
		if c.err == nil {
			c.err = use(c)
		}
		if c.err != nil {
			return c.err
		}
		free <- c.data
	}
	return nil
}

// chunk writes a chunk without its zero pages. These are written only where they
// would not be zero by themselves.
func (w *writer) chunk(c *chunk) error {
	isZero := func(i int) bool { return bytes.Equal(c.data[i:i+pageSize], zeroPage[:]) }
	for from := 0; from < len(c.data); {
		zero, to := isZero(from), from+pageSize
		for to < len(c.data) && isZero(to) == zero {
			to += pageSize
		}
		var err error
		switch {
		case !zero:
			err = w.pages(c.source.owner, c.at+uint64(from), c.data[from:to])
		case c.source.zeros:
			err = w.zeros(c.source.owner, c.at+uint64(from), uint64(to-from))
		}
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}
