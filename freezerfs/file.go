package freezerfs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
)

// A file is a kind of file that groups have.
type file struct {
	name   string
	mode   uint32 // where the kernel has no file for it
	where  uint8
	native string // the kernel's own file on cgroup2; on cgroup1 all have the same names
	// read returns all that the file says.
	read func(fs *fileSystem, h *handle, c caller) ([]byte, error)
	// write does what one write(2) says: each is a whole command, wherever in the
	// file it is, as in all of the kernel's control files.
	write func(fs *fileSystem, h *handle, c caller, text string) error
}

// Where a kind of file is.
const (
	inRoot uint8 = 1 << iota
	inGroups
	everywhere = inRoot | inGroups
)

// files are in the order in which a directory lists them, which is also that of
// their numbers.
var files []*file

func init() {
	files = []*file{
		{cloneFile, 0o644, everywhere, "", readFlag, writeFlag},
		{"cgroup.procs", 0o644, everywhere, "cgroup.procs", readProcesses, moveProcess},
		{"cgroup.sane_behavior", 0o444, inRoot, "", readZero, nil},
		{"freezer.parent_freezing", 0o444, inGroups, "", readParent, nil},
		{"freezer.self_freezing", 0o444, inGroups, "", readSelf, nil},
		{"freezer.state", 0o644, inGroups, "cgroup.freeze", readState, writeState},
		{notifyFile, 0o644, everywhere, "", readFlag, writeFlag},
		{agentFile, 0o644, inRoot, "", readAgent, writeAgent},
		{"tasks", 0o644, everywhere, "cgroup.threads", readTasks, moveTask},
	}
	for i, f := range files {
		numbers[f] = uint64(i + 1)
		if f.where&inRoot != 0 {
			inTheRoot = append(inTheRoot, f)
		}
		if f.where&inGroups != 0 {
			inAGroup = append(inAGroup, f)
		}
	}
}

var (
	numbers             = map[*file]uint64{}
	inTheRoot, inAGroup []*file
)

// number is the file's number, from 1 on.
func (f *file) number() uint64 { return numbers[f] }

func fileByNumber(n uint64) *file {
	if n == 0 || n > uint64(len(files)) {
		return nil
	}
	return files[n-1]
}

func filesOf(root bool) []*file {
	if root {
		return inTheRoot
	}
	return inAGroup
}

func fileByName(name string, root bool) *file {
	for _, f := range filesOf(root) {
		if f.name == name {
			return f
		}
	}
	return nil
}

// kernel is the name of the kernel's own file that does the same; empty when
// there is none.
func (f *file) kernel(backend string) string {
	switch backend {
	case freezer.Cgroup1:
		return f.name
	case freezer.Cgroup2:
		return f.native
	}
	return ""
}

// A handle is an open file.
type handle struct {
	node *node
	file *file
	by   caller // who opened it: what a write may do goes by that, as with the kernel, lest a program with more rights be made to write

	mu   sync.Mutex
	view view
	text []byte // what it said when it was last read from its beginning
}

// handles are what is open, by the number that the kernel knows.
type handles struct {
	mu   sync.RWMutex
	next uint64
	open map[uint64]any // *handle or *listing
}

func (hs *handles) add(h any) uint64 {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.open == nil {
		hs.open = map[uint64]any{}
	}
	hs.next++
	hs.open[hs.next] = h
	return hs.next
}

func (hs *handles) get(n uint64) any {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	return hs.open[n]
}

func (hs *handles) drop(n uint64) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	delete(hs.open, n)
}

// Open answers open(2) of a file.
func (fs *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	g, f, st, err := fs.statOf(&in.InHeader)
	if err != nil {
		return status(err)
	}
	if f == nil {
		return fuse.EISDIR
	}
	want := map[uint32]uint32{unix.O_RDONLY: mayRead, unix.O_WRONLY: mayWrite}[in.Flags&unix.O_ACCMODE]
	if want == 0 {
		want = mayRead | mayWrite
	}
	if in.Flags&unix.O_TRUNC != 0 {
		want |= mayWrite
	}
	c := callerOf(&in.InHeader)
	if err := c.may(want, &st); err != nil {
		return status(err)
	}
	out.Fh = fs.handles.add(&handle{node: g.node, file: f, by: c})
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// Release is told when the last descriptor is closed.
func (fs *fileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	fs.handles.drop(in.Fh)
}

// Read answers read(2). What is read in several pieces is of one moment: when
// the first was read, at offset 0.
func (fs *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	h, ok := fs.handles.get(in.Fh).(*handle)
	if !ok {
		return nil, fuse.EBADF
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if in.Offset == 0 || h.text == nil {
		text, err := h.file.read(fs, h, callerOf(&in.InHeader))
		if err != nil {
			return nil, status(gone(err))
		}
		h.text = text
	}
	text := h.text[min(in.Offset, uint64(len(h.text))):]
	return fuse.ReadResultData(text[:min(int(in.Size), len(text))]), fuse.OK
}

// maxCommand is more than any file takes; the release agent's path is longest.
const maxCommand = unix.PathMax

// Write answers write(2).
func (fs *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h, ok := fs.handles.get(in.Fh).(*handle)
	if !ok {
		return 0, fuse.EBADF
	}
	if h.file.write == nil {
		return 0, fuse.EINVAL
	}
	if len(data) > maxCommand {
		return 0, fuse.Status(unix.E2BIG)
	}
	if err := h.file.write(fs, h, callerOf(&in.InHeader), string(data)); err != nil {
		return 0, status(gone(err))
	}
	return uint32(len(data)), fuse.OK
}

// Writev has the library call Write.
func (fs *fileSystem) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// gone turns the error about a group that is not there into that of an open file
// whose group was removed, which is the kernel's ENODEV.
func gone(err error) error {
	if freezer.Errno(err) == unix.ENOENT {
		return unix.ENODEV
	}
	return err
}
