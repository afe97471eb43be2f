package checkpoint

import (
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Owner gets a signal when something can be done with an open file (O_ASYNC).
type Owner struct {
	Type   int32 `json:"type"` // F_OWNER_
	ID     int32 `json:"id"`
	Signal int   `json:"signal,omitempty"` // 0: SIGIO, without what is in siginfo_t otherwise
}

const (
	fSetSig = 10 // F_SETSIG
	fGetSig = 11
)

// owner reads whom an open file tells.
func (s *survey) owner(p *Process, fd int, where string) *Owner {
	own, err := descriptorOf(p.PID, fd)
	if err != nil {
		return nil // it was closed meanwhile
	}
	defer unix.Close(own)
	o := new(Owner)
	o.Signal, err = unix.FcntlInt(uintptr(own), fGetSig, 0)
	if err == nil {
		err = o.fcntl(own, unix.F_GETOWN_EX)
	}
	if err != nil {
		s.hinder(p.PID, where, "whom it sends signals (O_ASYNC) cannot be read: %v", err)
	}
	return o
}

func (o *Owner) fcntl(fd int, cmd uintptr) error {
	// Type and ID are a struct f_owner_ex.
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), cmd, uintptr(unsafe.Pointer(o)))
	return number(errno)
}

// owned makes sure that those who get signals of open files are in the job.
func (s *survey) owned() {
	ids := s.job.ids()
	for i := range s.job.Files {
		if o := s.job.Files[i].Owner; o != nil && !o.in(ids) {
			from := s.files.open[i]
			s.hinder(from.pid, "descriptor "+strconv.Itoa(from.fd), "it sends signals (O_ASYNC) to %d, which is not in the group", o.ID)
		}
	}
}

// ids are the PIDs and TIDs of a job.
func (j *Job) ids() map[int]bool {
	ids := map[int]bool{}
	for i := range j.Processes {
		ids[j.Processes[i].PID] = true
		for _, t := range j.Processes[i].Threads {
			ids[t.TID] = true
		}
	}
	return ids
}

func (o *Owner) in(ids map[int]bool) bool { return o.ID == 0 || ids[int(o.ID)] }

// sendSignals has those open files send signals again that no process before had:
// with the signal comes the number of the descriptor by which that was asked for.
func (r *restorer) sendSignals(w *worker, p *Process) {
	for _, d := range p.Descriptors {
		f := &r.job.Files[d.File]
		if f.Owner != nil && !r.sending[d.File] {
			w.do("sending signals (O_ASYNC)", unix.SYS_FCNTL, uintptr(d.FD), unix.F_SETFL, uintptr(f.Flags|unix.O_ASYNC))
			r.sending[d.File] = true
		}
	}
}

// tellOwners says to whom, when all are there, and to nobody before.
func (r *restorer) tellOwners() error {
	for i := range r.job.Files {
		f := &r.job.Files[i]
		o := f.Owner
		if o == nil {
			continue
		}
		var err error
		if here := (Owner{Type: o.Type, ID: r.idHere(o.ID)}); o.ID != 0 {
			err = here.fcntl(r.files[i], unix.F_SETOWN_EX)
		}
		if err == nil {
			_, err = unix.FcntlInt(uintptr(r.files[i]), fSetSig, o.Signal)
		}
		if err != nil {
			return fmt.Errorf("%s: sending signals (O_ASYNC): %w", f.name(), err)
		}
	}
	return nil
}

// idHere is what a PID or TID of the job is for this program.
func (r *restorer) idHere(id int32) int32 {
	if w := r.byPID[int(id)]; w != nil {
		return int32(w.pid)
	}
	if w := r.threads[int(id)]; w != nil {
		return int32(w.tid)
	}
	return id
}
