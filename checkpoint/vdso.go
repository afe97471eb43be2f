package checkpoint

import (
	"bytes"
	"encoding/hex"
	"errors"
	"hash/fnv"
	"os"
	"slices"
	"strings"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/ptrace"
)

// callInVDSO finds an instruction that makes a system call in the kernel's own
// code, which each process has.
func callInVDSO(pid int, p *Process) (uintptr, error) {
	run := kernelRun(p.Mappings)
	vdso := run[len(run)-1]
	code := make([]byte, vdso.End-vdso.Start)
	if err := ptrace.Peek(pid, uintptr(vdso.Start), code); err != nil {
		return 0, err
	}
	at := bytes.Index(code, callInstruction)
	if at < 0 {
		return 0, errors.New("there is no system call in the vdso")
	}
	return uintptr(vdso.Start) + uintptr(at), nil
}

// kernelMappings makes sure that the kernel's own mappings are those that a
// process gets here: vvar and vdso, side by side.
func (s *survey) kernelMappings(p *Process) {
	theirs := kernelRun(p.Mappings)
	same := slices.EqualFunc(theirs, s.vvar, func(a, b Mapping) bool {
		return a.Name == b.Name && a.End-a.Start == b.End-b.Start && a.Start-theirs[0].Start == b.Start-s.vvar[0].Start
	})
	if !same {
		s.hinder(p.PID, "memory", "its vdso and vvar are not as the kernel makes them")
	}
}

func kernelRun(all []Mapping) (run []Mapping) {
	for _, m := range all {
		if m.Kind == kindKernel {
			run = append(run, m)
		}
	}
	return run
}

// ownVDSO returns the kernel's code in this process, without the zeros at its end,
// and the kernel's mappings.
func ownVDSO() (code []byte, run []Mapping, err error) {
	text, err := kernfs.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, nil, err
	}
	areas, err := parseAreas(text)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range areas {
		if a.name == "[vdso]" || strings.HasPrefix(a.name, "[vvar") {
			run = append(run, Mapping{Start: a.start, End: a.end, Kind: kindKernel, Name: a.name})
		}
	}
	if len(run) == 0 || run[len(run)-1].Name != "[vdso]" {
		return nil, nil, errors.New("this kernel gives processes no vdso")
	}
	last := run[len(run)-1]
	code = make([]byte, last.End-last.Start)
	err = ptrace.Peek(os.Getpid(), uintptr(last.Start), code)
	return bytes.TrimRight(code, "\x00"), run, err
}

// hash tells the code of one kernel from another's.
func hash(b []byte) string {
	h := fnv.New128a()
	_, _ = h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}
