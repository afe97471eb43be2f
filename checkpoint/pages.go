package checkpoint

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// A run is a range of memory.
type run struct{ start, end uint64 }

// The bits of an entry of /proc/PID/pagemap.
const (
	pageIsFile    = 1 << 61 // or shared
	pageSwapped   = 1 << 62
	pageInMemory  = 1 << 63
	pagesAtOnce   = 8192
	bytesPerEntry = 8
)

// presentIn finds the pages of a private mapping that the process has made its
// own: in memory or in swap, and not those of a file. It reads /proc/PID/pagemap.
func presentIn(pagemap int, start, end uint64) (runs []run, err error) {
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

// A memoryWriter writes the memory of stopped processes to an image.
type memoryWriter struct {
	w   *writer
	buf []byte
}

// process writes what a process has in its private mappings.
func (w *memoryWriter) process(index int, p *Process) error {
	pagemap, err := unix.Open(proc.Path(p.PID, "pagemap"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pagemap)
	mem, err := unix.Open(proc.Path(p.PID, "mem"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mem)
	for _, m := range p.Mappings {
		if m.Kind != kindPrivate && m.Kind != kindFile {
			continue
		}
		runs, err := presentIn(pagemap, m.Start, m.End)
		if err != nil {
			return err
		}
		read := func(b []byte, at uint64) error { return readMemory(p.PID, mem, m.Prot, b, at) }
		if err := w.runs(owner{index: index}, runs, m.Kind == kindFile, read); err != nil {
			return fmt.Errorf("the memory of process %d at %x: %w", p.PID, m.Start, err)
		}
	}
	return nil
}

// readMemory reads by process_vm_readv, which is the fastest, what the process
// itself may read.
func readMemory(pid, mem, prot int, b []byte, at uint64) error {
	for len(b) > 0 {
		var n int
		var err error
		if prot&unix.PROT_READ != 0 {
			n, err = unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
		} else {
			n, err = unix.Pread(mem, b, int64(at))
		}
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

// shared writes what is in shared memory.
func (w *memoryWriter) shared(index int, path string, size uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("shared memory: %w", err)
	}
	defer f.Close()
	read := func(b []byte, at uint64) error {
		_, err := f.ReadAt(b, int64(at))
		return err
	}
	var runs []run
	for at := int64(0); uint64(at) < size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		to, err2 := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil || err2 != nil {
			return fmt.Errorf("shared memory: %w", err)
		}
		runs = append(runs, run{uint64(from), min(size, uint64(to))})
		at = to
	}
	return w.runs(owner{true, index}, runs, false, read)
}

var zeroPage [pageSize]byte

// runs writes ranges of memory without their zero pages. These are written only
// where they would not be zero by themselves.
func (w *memoryWriter) runs(o owner, runs []run, zerosMatter bool, read func([]byte, uint64) error) error {
	if w.buf == nil {
		w.buf = make([]byte, maxPages)
	}
	for _, r := range runs {
		for at := r.start; at < r.end; {
			b := w.buf[:min(maxPages, r.end-at)]
			if err := read(b, at); err != nil {
				return err
			}
			if err := w.pieces(o, at, b, zerosMatter); err != nil {
				return err
			}
			at += uint64(len(b))
		}
	}
	return nil
}

// pieces writes a piece of memory as records that are all zero or not.
func (w *memoryWriter) pieces(o owner, at uint64, b []byte, zerosMatter bool) error {
	isZero := func(i int) bool { return bytes.Equal(b[i:i+pageSize], zeroPage[:]) }
	for from := 0; from < len(b); {
		zero, to := isZero(from), from+pageSize
		for to < len(b) && isZero(to) == zero {
			to += pageSize
		}
		var err error
		switch {
		case !zero:
			err = w.w.pages(o, at+uint64(from), b[from:to])
		case zerosMatter:
			err = w.w.zeros(o, at+uint64(from), uint64(to-from))
		}
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}
