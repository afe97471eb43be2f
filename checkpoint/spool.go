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

// spool reads the rest of a stream into a file without a name, in the directory for
// temporary files: so that who writes it ends, and then perhaps the job does.
func (r *reader) spool() (*os.File, error) {
	f, err := unnamed(os.TempDir())
	if err != nil {
		return nil, err
	}
	if f.Name() != os.TempDir() {
		_ = os.Remove(f.Name())
	}
	if _, err := io.Copy(f, r.r); err != nil {
		f.Close()
		return nil, fmt.Errorf("the image: %w", err)
	}
	r.file, r.at = f, 0
	r.r.Reset((*fromFile)(r))
	return f, nil
}
