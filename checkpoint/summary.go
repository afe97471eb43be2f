package checkpoint

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Summary is what a person wants to know of an image.
type Summary struct {
	Group     string           `json:"group"`
	Taken     time.Time        `json:"taken"`
	Host      string           `json:"host"`
	Kernel    string           `json:"kernel"`
	Needs     []string         `json:"needs"`          // options that the restore must be given
	Base      string           `json:"base,omitempty"` // the image that it builds on
	Processes []ProcessSummary `json:"processes"`
}

// A ProcessSummary is one process of a Summary.
type ProcessSummary struct {
	PID     int           `json:"pid"`
	Parent  int           `json:"parent"` // 0: outside of the job
	Command string        `json:"command"`
	Ended   bool          `json:"ended"` // a zombie
	Tasks   int           `json:"tasks"`
	Mapped  uint64        `json:"mapped"` // bytes
	User    int           `json:"uid"`
	Files   []FileSummary `json:"files"`
}

// A FileSummary is one descriptor of a process.
type FileSummary struct {
	FD   int    `json:"fd"`
	What string `json:"what"`
}

// Summarize makes a summary of a job.
func (j *Job) Summarize() Summary {
	s := Summary{Group: j.Group, Taken: j.Taken, Host: j.Host, Kernel: j.Kernel, Needs: []string{}, Processes: []ProcessSummary{}}
	if j.Base != nil {
		s.Base = j.Base.Path
	}
	for i, stream := range streams {
		for _, f := range j.Files {
			if f.Kind == fileOutside && f.Stream == i {
				s.Needs = append(s.Needs, stream)
				break
			}
		}
	}
	if slices.ContainsFunc(j.Files, func(f File) bool { return f.Socket != nil && f.Socket.Outside }) {
		s.Needs = append(s.Needs, "--tcp-close")
	}
	for _, p := range j.Processes {
		sum := ProcessSummary{
			PID: p.PID, Parent: p.Parent, Command: strings.Join(p.Arguments, " "), Ended: p.Ended != nil,
			Tasks: len(p.Threads), User: p.Identity.UIDs[1], Files: []FileSummary{},
		}
		if sum.Command == "" {
			sum.Command = "[" + p.Command + "]"
		}
		for _, m := range p.Mappings {
			sum.Mapped += m.End - m.Start
		}
		for _, d := range p.Descriptors {
			sum.Files = append(sum.Files, FileSummary{d.FD, j.Files[d.File].describe()})
		}
		s.Processes = append(s.Processes, sum)
	}
	return s
}

func (f *File) describe() string {
	switch f.Kind {
	case fileRegular:
		return fmt.Sprintf("%s at %d", f.Path, f.Offset)
	case filePipe:
		end := [...]string{"reads", "writes", "reads and writes"}[min(f.Flags&3, 2)]
		if f.Path != "" {
			return fmt.Sprintf("%s %s", end, f.Path)
		}
		return fmt.Sprintf("%s pipe %d", end, f.Pipe)
	case fileSocket:
		return f.Socket.describe()
	case fileOutside:
		return "outside of the job, " + streams[f.Stream]
	}
	return f.name()
}
