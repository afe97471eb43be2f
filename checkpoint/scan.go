package checkpoint

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A run is a range of memory.
type run struct{ start, end uint64 }

// What PAGEMAP_SCAN tells of pages; see linux/fs.h.
const (
	isWritten = 1 << 1 // since it was protected
	isFile    = 1 << 2 // or shared
	isPresent = 1 << 3
	isSwapped = 1 << 4
)

// And what it can do.
const (
	scanProtect = 1 << 0 // those that it finds
	scanAsync   = 1 << 1 // fail with EPERM where writes are not noted
	pagemapScan = 0xc0606610
)

// A scanning is the kernel's struct pm_scan_arg.
type scanning struct {
	size, flags, start, end, walked, found, room, most uint64
	inverted, all, any, told                           uint64
}

// scan finds the pages of a range for which all and any of the given bits are set,
// after those that are inverted have been, through /proc/PID/pagemap.
func scan(pagemap int, start, end uint64, s scanning) (runs []run, err error) {
	var found [512]struct{ start, end, is uint64 }
	s.size, s.told = uint64(unsafe.Sizeof(s)), s.all|s.any
	s.found, s.room = uint64(uintptr(unsafe.Pointer(&found))), uint64(len(found))
	for at := start; at < end; at = s.walked {
		s.start, s.end, s.walked = at, end, 0
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pagemap), pagemapScan, uintptr(unsafe.Pointer(&s)))
		if errno == unix.EINTR {
			s.walked = at
			continue
		}
		if errno != 0 {
			return runs, errno
		}
		for _, f := range found[:n] {
			if last := len(runs) - 1; last >= 0 && runs[last].end == f.start {
				runs[last].end = f.end
			} else {
				runs = append(runs, run{f.start, f.end})
			}
		}
		if s.walked <= at {
			return runs, unix.EIO
		}
	}
	return runs, nil
}

// presentIn finds the pages of a private mapping that the process has made its
// own: in memory or in swap, and not those of a file. Where no file is mapped the
// kernel is not asked which are, which takes it ten times as long.
func presentIn(pagemap int, start, end uint64, ofFile bool) (runs []run, err error) {
	what := scanning{any: isPresent | isSwapped}
	if ofFile {
		what.inverted, what.all = isFile, isFile
	}
	runs, err = scan(pagemap, start, end, what)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) { // before Linux 6.7
		return readPresent(pagemap, start, end)
	}
	return runs, err
}

// without is what is in some runs and not in others; both are in order.
func without(runs, others []run) (left []run) {
	for _, r := range runs {
		for len(others) > 0 && others[0].end <= r.start {
			others = others[1:]
		}
		for _, o := range others {
			if o.start >= r.end {
				break
			}
			if o.start > r.start {
				left = append(left, run{r.start, o.start})
			}
			r.start = max(r.start, min(o.end, r.end))
		}
		if r.start < r.end {
			left = append(left, r)
		}
	}
	return left
}

// within is what is in both, piece by piece; both are in order.
func within(runs, others []run) (both []run) {
	for _, r := range runs {
		for len(others) > 0 && others[0].end <= r.start {
			others = others[1:]
		}
		for _, o := range others {
			if o.start >= r.end {
				break
			}
			both = append(both, run{max(r.start, o.start), min(r.end, o.end)})
		}
	}
	return both
}

func lengthOf(runs []run) (bytes uint64) {
	for _, r := range runs {
		bytes += r.end - r.start
	}
	return bytes
}
