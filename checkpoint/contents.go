package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Of some files and memory the contents are in the image, as those of shared memory
// are: nobody could find them again, or they would be gone when the host is started
// anew.
//
// A memfd becomes one again. A deleted file becomes an unnamed one (O_TMPFILE) in
// the same directory, and so in the same file system: what it costs, how large it
// may grow and what statfs says stay the same. Its inode number is another one,
// and /proc shows "#" and that number in place of its old name.
//
// A file in memory (tmpfs) that the job alone maps and may write, which POSIX shared
// memory is, and System V shared memory outlive the job, but not the host. Where
// they still are, they must have what the image has in them, and are used; where
// they are gone they are made again.

// maxDeleted bounds the bytes of a deleted file that are carried: a disk may hold
// more than anybody wants in an image. What is memory is not bounded.
const maxDeleted = 1 << 30

// Contents are those of a file, or of System V memory.
type Contents struct {
	Kind   string    `json:"kind"`
	Path   string    `json:"path"`   // that it had: that of a memfd has its name, after memfdPrefix
	Length int64     `json:"length"` // bytes
	Mode   uint32    `json:"mode"`
	UID    int       `json:"uid"`
	GID    int       `json:"gid"`
	Mtime  time.Time `json:"mtime,omitzero"`
	Seals  int       `json:"seals,omitempty"` // F_SEAL_, of a memfd
	ID     int       `json:"id,omitempty"`    // of System V memory
	Key    int32     `json:"key,omitempty"`   // of it
}

// The kinds of contents.
const (
	contentsMemfd   = "memfd"
	contentsDeleted = "deleted file"
	contentsMemory  = "file in memory"
	contentsSystemV = "System V memory"
)

const (
	memfdPrefix   = "/memfd:"
	deletedSuffix = " (deleted)"
	secretmem     = 0x5345434d // SECRETMEM_MAGIC of statfs(2)
)

// nameOf is the path that leads to the file at a link of /proc which says another:
// a file whose name was deleted may have another one in the same directory. It is
// empty for those that are not found.
func nameOf(at, says string) string {
	if sameFile(at, says) {
		return says
	}
	was, deleted := strings.CutSuffix(says, deletedSuffix)
	var st unix.Stat_t
	if !deleted || unix.Stat(at, &st) != nil || st.Nlink == 0 {
		return ""
	}
	entries, _ := os.ReadDir(filepath.Dir(was))
	for _, e := range entries {
		if path := filepath.Join(filepath.Dir(was), e.Name()); e.Type().IsRegular() && sameFile(at, path) {
			return path
		}
	}
	return ""
}

// contents notes a file without a name, whose contents go into the image, and
// returns its place in Job.Shared. at is a link of /proc that leads to the file.
func (s *survey) contents(pid int, where, at string) int {
	link, err := os.Readlink(at)
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err == nil {
		err = unix.Stat(at, &st)
	}
	if err == nil {
		err = unix.Statfs(at, &fs)
	}
	if err != nil {
		s.hinder(pid, where, "its file cannot be read: %v", err)
		return 0
	}
	id := inode{st.Dev, st.Ino}
	if i, seen := s.shared[id]; seen {
		return i
	}
	c := fileContents(contentsDeleted, strings.TrimSuffix(link, deletedSuffix), &st)
	if strings.HasPrefix(link, memfdPrefix) {
		c.Kind = contentsMemfd
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		s.hinder(pid, where, "it is deleted: %s", c.Path)
	case fs.Type == unix.HUGETLBFS_MAGIC:
		s.hinder(pid, where, "its file is of huge pages (hugetlb): %s", c.Path)
	case c.Kind == contentsMemfd:
		if c.Seals, err = sealsOf(at); err != nil {
			s.hinder(pid, where, "the seals of %s cannot be read: %v", c.Path, err)
		}
	case fs.Type == secretmem:
		s.hinder(pid, where, "it is secret memory (memfd_secret)")
	case st.Nlink != 0:
		s.hinder(pid, where, "its file was deleted or replaced, and has other names, in other directories: %s", c.Path)
	case !sameFileSystem(filepath.Dir(c.Path), &fs):
		s.hinder(pid, where, "its file is deleted, and so is the directory, or it is of another file system: %s", c.Path)
	case st.Blocks > maxDeleted/512:
		s.hinder(pid, where, "its file is deleted, and too large for an image: %s has %d MiB, at most are carried %d", c.Path, st.Blocks>>11, maxDeleted>>20)
	}
	return s.share(id, origin{pid, where, at}, c)
}

func fileContents(kind, path string, st *unix.Stat_t) *Contents {
	return &Contents{
		Kind: kind, Path: path, Length: st.Size, Mode: st.Mode & 0o7777,
		UID: int(st.Uid), GID: int(st.Gid), Mtime: time.Unix(st.Mtim.Unix()),
	}
}

// An origin is where shared memory was first seen.
type origin struct {
	pid         int
	where, path string
}

// share adds what has contents to the shared memory.
func (s *survey) share(id inode, from origin, c *Contents) int {
	return s.shareMemory(id, from, Shared{Size: wholePages(c.Length), Contents: c})
}

func (s *survey) shareMemory(id inode, from origin, what Shared) int {
	i := len(s.job.Shared)
	s.shared[id] = i
	s.job.Shared = append(s.job.Shared, what)
	s.origins = append(s.origins, from)
	return i
}

func wholePages(length int64) uint64 {
	return (uint64(length) + pageSize - 1) / pageSize * pageSize
}

func sealsOf(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
}

func sameFileSystem(path string, as *unix.Statfs_t) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == as.Type && fs.Fsid == as.Fsid
}

// mappedContents notes a mapped file without a name.
func (s *survey) mappedContents(p *Process, a area) int {
	at := s.contents(p.PID, a.where(), a.mapFile(p.PID))
	key := deletedSuffix + strconv.Itoa(at) // which is no path
	i, ok := s.mapped[key]
	if !ok {
		i = len(s.job.Mapped)
		s.mapped[key] = i
		s.job.Mapped = append(s.job.Mapped, Mapped{Path: strings.TrimSuffix(unescape(a.name), deletedSuffix), Contents: &at})
	}
	return i
}

// maybeMemory notes a mapped file that is in memory and that the process may write.
func (s *survey) maybeMemory(p *Process, a area, mapped int) {
	at := a.mapFile(p.PID)
	var link, st unix.Stat_t
	var fs unix.Statfs_t
	switch {
	case mapped >= len(s.job.Mapped):
	case unix.Lstat(at, &link) != nil || link.Mode&unix.S_IWUSR == 0: // as the file was opened
	case unix.Statfs(at, &fs) != nil || fs.Type != unix.TMPFS_MAGIC:
	case unix.Stat(at, &st) == nil && st.Nlink > 0:
		s.inMemory[inode{st.Dev, st.Ino}] = mapped
	}
}

// keepMemory has the contents of files in memory, that no outsider has, in the image.
// Those that outsiders have, too, are their affair: they must be there at the restore.
func (s *survey) keepMemory(outside map[inode]int) {
	for id, i := range s.inMemory {
		m := &s.job.Mapped[i]
		var st unix.Stat_t
		if unix.Stat(m.Path, &st) != nil || id != (inode{st.Dev, st.Ino}) || outside[id] != 0 {
			continue
		}
		at := s.share(id, origin{path: m.Path}, fileContents(contentsMemory, m.Path, &st))
		m.Contents, m.Write = &at, true
		for k := range s.job.Files {
			if f := &s.job.Files[k]; f.Kind == fileRegular && s.files.open[k].inode == id {
				f.Kind, f.Shared = fileOfImage, at
			}
		}
	}
}

// A standIn is the file that stands for contents at the restore.
type standIn struct {
	file  int // that the job gets, or -1
	fill  int // where the contents of the image go: the same, unless the file is there and is to be compared
	named bool
}

// makeContents makes the files whose contents are in the image, without them.
func (r *restorer) makeContents() error {
	for i := range r.job.Shared {
		r.contents = append(r.contents, standIn{-1, -1, false})
		c := r.job.Shared[i].Contents
		if c == nil || c.Kind == contentsSystemV {
			continue
		}
		o, err := c.open()
		if err != nil {
			return fmt.Errorf("%s cannot be made again: %w", c.Path, err)
		}
		r.contents[i] = o
	}
	return nil
}

// open makes an empty file that has the length of c, or opens the one that is there.
func (c *Contents) open() (o standIn, err error) {
	if c.Kind == contentsMemory {
		file, err := open(c.Path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK)
		if err == nil {
			return c.beside(file)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return o, err
		}
	}
	var file int
	if c.Kind == contentsMemfd {
		file, err = unix.MemfdCreate(strings.TrimPrefix(c.Path, memfdPrefix), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	} else {
		file, err = unix.Open(filepath.Dir(c.Path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return o, err
	}
	var fs unix.Statfs_t
	if c.Kind == contentsMemory && (unix.Fstatfs(file, &fs) != nil || fs.Type != unix.TMPFS_MAGIC) {
		unix.Close(file)
		return o, errors.New("its directory is not in memory (tmpfs)")
	}
	if err = unix.Fchown(file, c.UID, c.GID); err == nil {
		err = unix.Fchmod(file, c.Mode)
	}
	if err == nil {
		err = unix.Ftruncate(file, c.Length)
	}
	if err != nil {
		unix.Close(file)
		return o, err
	}
	return standIn{file: file, fill: file}, nil
}

// errOther is of what is there already, and is not what is in the image.
var errOther = errors.New("it was changed since: remove it, and it is made again from the image (--files ignore takes it as it is)")

// beside is an open file that is there already, with one to compare it with.
func (c *Contents) beside(file int) (standIn, error) {
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || c.Kind == contentsMemory && st.Size != c.Length {
		unix.Close(file)
		return standIn{}, errOther
	}
	fill, err := unix.MemfdCreate("freezer-compare", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fill, c.Length)
	}
	return standIn{file, fill, true}, err
}

// fillContents writes a piece of contents.
func (r *restorer) fillContents(i int, at uint64, data []byte) error {
	c := r.job.Shared[i].Contents
	data = data[:min(uint64(len(data)), uint64(c.Length)-at)] // its last page may be a part of one
	for len(data) > 0 {
		n, err := unix.Pwrite(r.contents[i].fill, data, int64(at))
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
		data, at = data[n:], at+uint64(n)
	}
	return nil
}

// finishContents does what comes after all is written, and only when all else is
// done: names are given last.
func (r *restorer) finishContents() error {
	for i := range r.contents {
		c, o := r.job.Shared[i].Contents, &r.contents[i]
		if c == nil || o.fill != o.file && r.options.Files == FilesIgnore {
			continue
		}
		if err := o.finish(c); err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

func (o *standIn) finish(c *Contents) error {
	if o.fill != o.file {
		same, err := sameContents(o.file, o.fill, c.Length)
		if err == nil && !same {
			err = errOther
		}
		return err
	}
	if c.Kind == contentsSystemV {
		return c.finishSystemV()
	}
	mtime := unix.NsecToTimespec(c.Mtime.UnixNano())
	link := "/proc/self/fd/" + strconv.Itoa(o.file)
	if err := unix.UtimesNano(link, []unix.Timespec{mtime, mtime}); err != nil {
		return err
	}
	switch c.Kind {
	case contentsMemfd:
		_, err := unix.FcntlInt(uintptr(o.file), unix.F_ADD_SEALS, c.Seals)
		return err
	case contentsMemory:
		err := unix.Linkat(unix.AT_FDCWD, link, unix.AT_FDCWD, c.Path, unix.AT_SYMLINK_FOLLOW)
		o.named = err == nil
		return err
	}
	return nil
}

// dropContents closes all files, and takes back what was made and has a name when
// the job was not restored.
func (r *restorer) dropContents(restored bool) {
	for i, o := range r.contents {
		c := r.job.Shared[i].Contents
		switch {
		case restored || c == nil || o.fill != o.file:
		case c.Kind == contentsMemory && o.named:
			_ = unix.Unlink(c.Path)
		case c.Kind == contentsSystemV && o.named:
			_, _ = unix.SysvShmCtl(c.ID, unix.IPC_RMID, nil)
		}
		unix.Close(o.file)
		if o.fill != o.file {
			unix.Close(o.fill)
		}
	}
	r.contents = nil
}

// sameContents says whether two files have the same in their first length bytes. It
// leaves out what is a hole in both.
func sameContents(a, b int, length int64) (bool, error) {
	var bufs [2][]byte
	for i := range bufs {
		bufs[i] = make([]byte, maxPages)
	}
	for at := int64(0); at < length; {
		next := int64(math.MaxInt64)
		for _, file := range []int{a, b} {
			data, err := unix.Seek(file, at, unix.SEEK_DATA)
			if err == nil {
				next = min(next, data)
			} else if err != unix.ENXIO {
				return false, err
			}
		}
		if at = next; at >= length {
			break
		}
		n := min(maxPages, length-at)
		for i, file := range []int{a, b} {
			if got, err := unix.Pread(file, bufs[i][:n], at); err != nil || int64(got) != n {
				return false, errors.Join(io.ErrUnexpectedEOF, err)
			}
		}
		if !bytes.Equal(bufs[0][:n], bufs[1][:n]) {
			return false, nil
		}
		at += n
	}
	return true, nil
}

// reopenContents makes an open file of one whose contents are in the image.
func (r *restorer) reopenContents(i, flags int, offset int64) (int, error) {
	// A file that was made without a name (O_TMPFILE) has O_DIRECTORY among its flags.
	opened, err := open("/proc/self/fd/"+strconv.Itoa(r.contents[i].file), flags&^unix.O_DIRECTORY)
	if err == nil && flags&unix.O_PATH == 0 && offset != 0 {
		if _, err = unix.Seek(opened, offset, unix.SEEK_SET); err != nil {
			unix.Close(opened)
		}
	}
	return opened, err
}

// check says whether such contents, of so many bytes of whole pages, can be.
func (c *Contents) check(size uint64) bool {
	switch c.Kind {
	case contentsMemfd, contentsDeleted, contentsMemory:
	case contentsSystemV:
		if c.ID < 0 || c.ID > math.MaxInt32 || c.Length == 0 {
			return false
		}
	default:
		return false
	}
	return clean(c.Path) && c.Length >= 0 && c.Length <= maxAddr && wholePages(c.Length) == size &&
		c.Mode&^0o7777 == 0 && c.UID >= 0 && c.GID >= 0
}
