// Package mountinfo reads /proc/PID/mountinfo, whose form proc_pid_mountinfo(5)
// gives.
package mountinfo

import (
	"bytes"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
)

// A Mount is one line of mountinfo.
type Mount struct {
	ID      string // of the mount
	Device  string // major:minor
	Root    string // the directory of the file system that is seen at Point
	Point   string // where it is mounted, as the reader sees it
	Options string // of the mount: ro, nosuid …
	Type    string // of the file system: cgroup2, fuse.freezer …
	Source  string
	Super   string // options of the file system: the controllers of a cgroup1 tree …
}

// ReadOnly says whether nothing can be written through this mount.
func (m Mount) ReadOnly() bool { return has(m.Options, "ro") || has(m.Super, "ro") }

// HasController says whether a mount of type cgroup carries this controller.
func (m Mount) HasController(name string) bool { return has(m.Super, name) }

func has(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// Self returns the mounts that this process sees, in the kernel's order: a
// later mount at the same point hides an earlier one.
func Self() ([]Mount, error) {
	text, err := kernfs.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return Parse(text), nil
}

// A Watch tells whether anything was mounted or unmounted. It keeps a descriptor
// until it is garbage. The zero value is ready for use, by one caller at a time.
type Watch struct{ file *watched }

type watched struct{ fd int }

// Changed says whether that may have happened since it was last called.
func (w *Watch) Changed() bool {
	if w.file == nil {
		fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			w.file = &watched{fd}
			runtime.AddCleanup(w.file, func(fd int) { _ = unix.Close(fd) }, fd)
		}
		return true
	}
	fds := []unix.PollFd{{Fd: int32(w.file.fd), Events: unix.POLLPRI}} // see proc_pid_mountinfo(5)
	n, err := unix.Poll(fds, 0)
	return n != 0 || err != nil
}

// Parse reads the whole of a mountinfo file. Lines that do not have its form
// are left out.
func Parse(text []byte) []Mount {
	var mounts []Mount
	for line := range bytes.Lines(text) {
		if m, ok := parseLine(string(bytes.TrimSuffix(line, []byte("\n")))); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// parseLine reads, for example,
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// in which any number of fields stands before the lone dash.
func parseLine(line string) (Mount, bool) {
	const first = 6 // fields that are always there
	f := strings.Split(line, " ")
	if len(f) < first {
		return Mount{}, false
	}
	dash := slices.Index(f[first:], "-")
	if dash < 0 || len(f) < first+dash+4 {
		return Mount{}, false
	}
	r := f[first+dash+1:]
	return Mount{
		ID: f[0], Device: f[2], Root: unescape(f[3]), Point: unescape(f[4]), Options: f[5],
		Type: r[0], Source: unescape(r[1]), Super: r[2],
	}, true
}

// unescape undoes the kernel's \ooo for blank, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }
