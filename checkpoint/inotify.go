package checkpoint

import (
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/mountinfo"
)

// An inotify's watches are of files that fdinfo names by their numbers and a handle.
// Their paths are found by opening them. Events that wait in it are not carried,
// for nobody could put them back.

// A WatchedPath is one that an inotify watches.
type WatchedPath struct {
	WD   int    `json:"wd"`
	Path string `json:"path"`
	Mask uint32 `json:"mask"`
}

// setNextWD chooses the number of an inotify's next watch (INOTIFY_IOC_SETNEXTWD).
const setNextWD = 0x40044900

// inotify reads the watches of an inotify.
func (s *survey) inotify(p *Process, fd int, where string, info []byte, f *File) {
	// inotify wd:1 ino:9ca348 sdev:fe00000 mask:300 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:48a39c005e86474a
	for line := range strings.Lines(string(info)) {
		var w WatchedPath
		var ino, dev uint64
		var ignored, size uint32
		var kind int32
		var handle string
		n, _ := fmt.Sscanf(line, "inotify wd:%x ino:%x sdev:%x mask:%x ignored_mask:%x fhandle-bytes:%x fhandle-type:%x f_handle:%s",
			&w.WD, &ino, &dev, &w.Mask, &ignored, &size, &kind, &handle)
		if n == 0 {
			continue
		}
		bytes, err := hex.DecodeString(handle)
		if n == 8 && err == nil && ignored == 0 {
			w.Path, err = pathOf(unix.Mkdev(uint32(dev>>20), uint32(dev&(1<<20-1))), ino, unix.NewFileHandle(kind, bytes))
		}
		if w.Path == "" {
			s.hinder(p.PID, where, "it is an inotify, and the path of its watch %d is not found: inode %d of device %d:%d, %v", w.WD, ino, dev>>20, dev&(1<<20-1), err)
			continue
		}
		f.Paths = append(f.Paths, w)
	}
	slices.SortFunc(f.Paths, func(a, b WatchedPath) int { return a.WD - b.WD })
	own, err := descriptorOf(p.PID, fd)
	if err != nil {
		return // it was closed meanwhile
	}
	defer unix.Close(own)
	if n, err := unix.IoctlGetInt(own, unix.TIOCINQ); err != nil || n > 0 {
		s.hinder(p.PID, where, "it is an inotify with events that nobody has read yet (%d bytes)", n)
	}
}

// pathOf finds a path of a file by its handle. The kernel knows one for each
// directory, and for files that somebody uses.
func pathOf(dev, ino uint64, handle unix.FileHandle) (string, error) {
	mounts, err := mountinfo.Self()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.Device != fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) {
			continue
		}
		var mount, file int
		if mount, err = unix.Open(m.Point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			continue
		}
		file, err = unix.OpenByHandleAt(mount, handle, unix.O_PATH|unix.O_CLOEXEC)
		unix.Close(mount)
		if err != nil {
			continue
		}
		at := "/proc/self/fd/" + strconv.Itoa(file)
		path, _ := os.Readlink(at)
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		unix.Close(file)
		if err == nil && st.Dev == dev && st.Ino == ino {
			return path, nil
		}
	}
	if err == nil {
		err = unix.ENOENT
	}
	return "", err
}

// watchPaths gives inotifies their watches, when nothing is opened any more that
// they could tell of.
func (r *restorer) watchPaths() error {
	for i := range r.job.Files {
		f := &r.job.Files[i]
		for _, w := range f.Paths {
			wd := int32(w.WD)
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.files[i]), setNextWD, uintptr(wd))
			if errno != 0 {
				return fmt.Errorf("inotify: choosing the number of a watch: %w", errno)
			}
			got, err := unix.InotifyAddWatch(r.files[i], w.Path, w.Mask|unix.IN_DONT_FOLLOW)
			if err != nil {
				return &os.PathError{Op: "watch", Path: w.Path, Err: err}
			}
			if got != w.WD {
				return fmt.Errorf("%s: it is watched already, by another name", w.Path)
			}
		}
	}
	return nil
}

// checkPaths says whether an inotify can have such watches.
func (f *File) checkPaths() bool {
	before := 0
	for _, w := range f.Paths {
		if w.WD <= before || w.WD > 1<<31-1 || !clean(w.Path) {
			return false
		}
		before = w.WD
	}
	return len(f.Paths) == 0 || f.Kind == fileInotify
}
