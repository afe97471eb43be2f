package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// FilePolicy says what may have become of the files that a job had open.
type FilePolicy string

// What Restore does with files. Executables and libraries, and what else was
// mapped, must be the same in any case.
const (
	FilesCheck    FilePolicy = "check"    // they must be the same, or have only grown; empty means this, too
	FilesRollback FilePolicy = "rollback" // those that the job could write are cut back to their length in the image
	FilesIgnore   FilePolicy = "ignore"   // they are taken as they are
)

// A Cut is a file that was cut back; sizes are in bytes.
type Cut struct {
	Path     string
	From, To int64
}

func (c Cut) String() string {
	return fmt.Sprintf("%s was cut back from %d to %d bytes", c.Path, c.From, c.To)
}

// compare says why a file cannot stand for the one that the job had open.
func (p FilePolicy) compare(f *File, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("it is no regular file any more")
	}
	if p == FilesIgnore {
		return nil
	}
	mtime := time.Unix(st.Mtim.Unix())
	longer := st.Size > f.Size || p == FilesRollback && f.writes() // to be cut back changes its time
	switch {
	case st.Size < f.Size:
		return fmt.Errorf("it has become shorter since: %d bytes, and had %d (--files ignore takes it as it is)", st.Size, f.Size)
	case !mtime.Equal(f.Mtime) && (!longer || tailOf(f.Path, f.Size) != f.Tail):
		return fmt.Errorf("it was changed since: %d bytes of %s, and had %d of %s (--files ignore takes it as it is)",
			st.Size, mtime.Format(time.DateTime), f.Size, f.Mtime.Format(time.DateTime))
	}
	return nil
}

// writes says whether the job could write the file.
func (f *File) writes() bool {
	mode := f.Flags & unix.O_ACCMODE
	return f.Kind == fileRegular && f.Flags&unix.O_PATH == 0 && (mode == unix.O_WRONLY || mode == unix.O_RDWR)
}

// rollBack cuts the files that the job could write back to where the image stands.
func (r *restorer) rollBack() error {
	if r.options.Files != FilesRollback {
		return nil
	}
	for i := range r.job.Files {
		f := &r.job.Files[i]
		if !f.writes() {
			continue
		}
		var st unix.Stat_t
		err := unix.Fstat(r.files[i], &st)
		if err == nil && st.Size > f.Size {
			err = unix.Ftruncate(r.files[i], f.Size)
			r.done.Cuts = append(r.done.Cuts, Cut{f.Path, st.Size, f.Size})
		}
		if err != nil {
			return &os.PathError{Op: "truncate", Path: f.Path, Err: err}
		}
	}
	return nil
}
