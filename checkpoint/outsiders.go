package checkpoint

import (
	"os"
	"strconv"
	"strings"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// What the job has in common with processes outside of it an image cannot carry:
// the restored job would have a copy of its own.

// outsiders finds which of the job's pipes, sockets, terminals, shared memory and nameless files, and files
// in memory, a process outside of the job has open
// or mapped, and one that does.
func (s *survey) outsiders() map[inode]int {
	links := map[string]bool{} // as descriptors show them
	areas := map[inode]bool{}
	for _, link := range s.files.pipes {
		links[link] = true
	}
	for id, i := range s.shared {
		if link, err := os.Readlink(s.origins[i].path); err == nil {
			links[link] = true
		}
		areas[id] = true
	}
	for id, i := range s.inMemory {
		links[s.job.Mapped[i].Path] = true
		areas[id] = true
	}
	found := map[inode]int{}
	if len(links)+len(s.terminals.masters) == 0 {
		return found
	}
	for id := range areas { // the maps of all processes are not read while the job is stopped
		if by, looked := s.before.outside[id]; looked {
			s.now.outside[id] = by
			delete(areas, id)
		} else {
			s.now.outside[id] = 0
		}
	}
	member := map[int]bool{}
	for _, p := range s.job.Processes {
		member[p.PID] = true
	}
	for _, pid := range proc.All() {
		if member[pid] {
			continue
		}
		for _, fd := range fdsOf(pid) {
			path := proc.Path(pid, "fd/"+strconv.Itoa(fd))
			link, err := os.Readlink(path)
			if err == nil && isMaster(link) {
				s.masterElsewhere(pid, fd)
			}
			if err != nil || !links[link] {
				continue
			}
			if id, err := inodeOf(path); err == nil {
				found[id] = pid
			}
		}
		if len(areas) == 0 {
			continue
		}
		text, _ := kernfs.ReadFile(proc.Path(pid, "maps"))
		mapped, _ := parseAreas(text)
		for _, a := range mapped {
			if id := a.id(); areas[id] {
				s.now.outside[id] = pid
			}
		}
	}
	for id, by := range s.now.outside {
		if by != 0 {
			found[id] = by
		}
	}
	return found
}

// id names what is mapped, as survey.shared has it.
func (a area) id() inode {
	ino, _ := strconv.ParseUint(a.inode, 10, 64)
	if strings.HasPrefix(a.name, systemVPrefix) {
		return systemVInode(a.device, ino)
	}
	return inode{a.device, ino}
}

// sharedOutside names the shared memory and files that outsiders have.
func (s *survey) sharedOutside(outside map[inode]int) {
	for id, i := range s.shared {
		if by, ok := outside[id]; ok {
			s.hinder(s.origins[i].pid, s.origins[i].where, "process %d, which is not in the group, has it, too", by)
		}
	}
}
