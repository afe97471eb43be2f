package checkpoint

import (
	"fmt"
	"io"
	"os"

	"github.com/cgfreezer/freezer/internal/proc"
)

// taken is of a PID that a process has which has not ended.
func taken(pid int, st proc.Stat) error {
	return fmt.Errorf("the PID %d is taken: by %s (in state %c, a child of %d); --new-pidns gives the job PIDs of its own", pid, st.Command, st.State, st.Parent)
}

// stillThere says whether processes of the job may be there yet: as when it was
// checkpointed on this host, and is killed when its image has been read. Its PIDs
// being those of others is an error.
func (j *Job) stillThere() (there bool, err error) {
	for i := range j.Processes {
		p := &j.Processes[i]
		st, err := proc.ReadStat(p.PID)
		if err != nil || st.State == 'Z' || st.State == 'X' {
			continue
		}
		if st.Command != p.Command {
			return false, taken(p.PID, st)
		}
		there = true
	}
	return there, nil
}

// nameless makes a file without a name in the directory for temporary files.
func nameless() (*os.File, error) {
	f, err := unnamed(os.TempDir())
	if err == nil && f.Name() != os.TempDir() {
		_ = os.Remove(f.Name())
	}
	return f, err
}

// spool reads the rest of a stream into a file without a name: so that who writes it
// ends, and then perhaps the job does.
func (r *reader) spool() (*os.File, error) {
	f, err := nameless()
	if err != nil {
		return nil, err
	}
	count := r.count
	if err = r.copyRecords(f); err == nil {
		if _, err = r.r.ReadByte(); err == nil {
			err = damaged("something follows its end")
		}
	}
	if err != io.EOF {
		f.Close()
		return nil, err
	}
	r.count, r.file, r.at = count, f, 0
	r.r.Reset((*fromFile)(r))
	return f, nil
}

// copyRecords copies what is left of a stream, and reads no further than to its end.
func (r *reader) copyRecords(to io.Writer) error {
	for {
		rec, length, err := r.begun()
		if err != nil {
			return err
		}
		if _, err := to.Write(rec.head[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(to, r.r, int64(length)); err != nil {
			return cut(err)
		}
		if rec.kind() == recordEnd {
			return nil
		}
	}
}
