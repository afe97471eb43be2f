package checkpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Some files nobody could find again: those that were made without a name (memfd),
// or that were deleted and are still open or mapped. Their contents are in the
// image, as shared memory is.
//
// A memfd becomes one again. A deleted file becomes an unnamed one (O_TMPFILE) in
// the same directory, and so in the same file system: what it costs, how large it
// may grow and what statfs says stay the same. Its inode number is another one,
// and /proc shows "#" and that number in place of its old name.

// maxDeleted bounds the bytes of a deleted file that are carried: a disk may hold
// more than anybody wants in an image. A memfd is memory, and is not bounded.
const maxDeleted = 1 << 30

// Contents are a file's whose contents are in the image.
type Contents struct {
	Path   string    `json:"path"`            // that it had
	Memfd  bool      `json:"memfd,omitempty"` // then the path has its name, after memfdPrefix
	Length int64     `json:"length"`          // bytes
	Mode   uint32    `json:"mode"`
	UID    int       `json:"uid"`
	GID    int       `json:"gid"`
	Mtime  time.Time `json:"mtime"`
	Seals  int       `json:"seals,omitempty"` // F_SEAL_, of a memfd
}

const (
	memfdPrefix   = "/memfd:"
	deletedSuffix = " (deleted)"
	secretmem     = 0x5345434d // SECRETMEM_MAGIC of statfs(2)
)

// contents notes a file whose contents go into the image, and returns its place in
// Job.Shared. at is a link of /proc that leads to the file.
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
	c := &Contents{
		Path: strings.TrimSuffix(link, deletedSuffix), Memfd: strings.HasPrefix(link, memfdPrefix), Length: st.Size,
		Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid), Mtime: time.Unix(st.Mtim.Unix()),
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		s.hinder(pid, where, "it is deleted: %s", c.Path)
	case fs.Type == unix.HUGETLBFS_MAGIC:
		s.hinder(pid, where, "its file is of huge pages (hugetlb): %s", c.Path)
	case c.Memfd:
		if c.Seals, err = sealsOf(at); err != nil {
			s.hinder(pid, where, "the seals of %s cannot be read: %v", c.Path, err)
		}
	case fs.Type == secretmem:
		s.hinder(pid, where, "it is secret memory (memfd_secret)")
	case st.Nlink != 0:
		s.hinder(pid, where, "its file was deleted or replaced, and has other names: %s", c.Path)
	case !sameFileSystem(filepath.Dir(c.Path), &fs):
		s.hinder(pid, where, "its file is deleted, and so is the directory, or it is of another file system: %s", c.Path)
	case st.Blocks > maxDeleted/512:
		s.hinder(pid, where, "its file is deleted, and too large for an image: %s has %d MiB, at most are carried %d", c.Path, st.Blocks>>11, maxDeleted>>20)
	}
	return s.share(id, origin{pid, where, at}, Shared{Size: uint64(st.Size+pageSize-1) / pageSize * pageSize, Contents: c})
}

// An origin is where shared memory was first seen.
type origin struct {
	pid         int
	where, path string
}

// share adds shared memory.
func (s *survey) share(id inode, from origin, what Shared) int {
	i := len(s.job.Shared)
	s.shared[id] = i
	s.job.Shared = append(s.job.Shared, what)
	s.origins = append(s.origins, from)
	return i
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

// mappedContents notes a mapped file whose contents go into the image.
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

// makeContents makes the files whose contents are in the image, without them.
func (r *restorer) makeContents() error {
	for i := range r.job.Shared {
		r.contents = append(r.contents, -1)
		c := r.job.Shared[i].Contents
		if c == nil {
			continue
		}
		file, err := c.create()
		if err != nil {
			return fmt.Errorf("%s cannot be made again: %w", c.Path, err)
		}
		r.contents[i] = file
	}
	return nil
}

// create makes an empty file that has the length of c.
func (c *Contents) create() (file int, err error) {
	if c.Memfd {
		file, err = unix.MemfdCreate(strings.TrimPrefix(c.Path, memfdPrefix), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	} else {
		file, err = unix.Open(filepath.Dir(c.Path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return -1, err
	}
	if err = unix.Fchown(file, c.UID, c.GID); err == nil {
		err = unix.Fchmod(file, c.Mode)
	}
	if err == nil {
		err = unix.Ftruncate(file, c.Length)
	}
	if err != nil {
		unix.Close(file)
		return -1, err
	}
	return file, nil
}

// fillContents writes a piece of a file's contents.
func (r *restorer) fillContents(i int, at uint64, data []byte) error {
	c := r.job.Shared[i].Contents
	data = data[:min(uint64(len(data)), uint64(c.Length)-at)] // its last page may be a part of one
	for len(data) > 0 {
		n, err := unix.Pwrite(r.contents[i], data, int64(at))
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
		data, at = data[n:], at+uint64(n)
	}
	return nil
}

// finishContents does what comes after all is written.
func (r *restorer) finishContents() error {
	for i, file := range r.contents {
		if file < 0 {
			continue
		}
		c := r.job.Shared[i].Contents
		mtime := unix.NsecToTimespec(c.Mtime.UnixNano())
		err := unix.UtimesNano("/proc/self/fd/"+strconv.Itoa(file), []unix.Timespec{mtime, mtime})
		if err == nil && c.Memfd {
			_, err = unix.FcntlInt(uintptr(file), unix.F_ADD_SEALS, c.Seals)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

// reopenContents makes an open file of one whose contents are in the image.
func (r *restorer) reopenContents(i, flags int, offset int64) (int, error) {
	// A file that was made without a name (O_TMPFILE) has O_DIRECTORY among its flags.
	opened, err := open("/proc/self/fd/"+strconv.Itoa(r.contents[i]), flags&^unix.O_DIRECTORY)
	if err == nil && flags&unix.O_PATH == 0 && offset != 0 {
		if _, err = unix.Seek(opened, offset, unix.SEEK_SET); err != nil {
			unix.Close(opened)
		}
	}
	return opened, err
}

// check says whether a file with such contents, of so many bytes of whole pages, can
// be.
func (c *Contents) check(size uint64) bool {
	return clean(c.Path) && c.Length >= 0 && c.Length <= maxAddr && uint64(c.Length+pageSize-1)/pageSize*pageSize == size &&
		c.Mode&^0o7777 == 0 && c.UID >= 0 && c.GID >= 0
}
