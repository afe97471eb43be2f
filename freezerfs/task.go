package freezerfs

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/proc"
)

func readTasks(fs *fileSystem, h *handle, c caller) ([]byte, error) {
	return readIDs(fs, h, c, (*freezer.Group).Tasks)
}

func readProcesses(fs *fileSystem, h *handle, c caller) ([]byte, error) {
	return readIDs(fs, h, c, (*freezer.Group).Processes)
}

// readIDs lists tasks by the numbers that the reader knows them by. Those whom it
// cannot see are left out.
func readIDs(fs *fileSystem, h *handle, c caller, read func(*freezer.Group) ([]int, error)) ([]byte, error) {
	v, err := h.viewOf(fs, c)
	if err != nil {
		return nil, err
	}
	ids, err := ask(fs, h, read)
	if err != nil {
		return nil, err
	}
	ids = v.numbers(ids)
	text := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		text = append(strconv.AppendInt(text, int64(id), 10), '\n')
	}
	return text, nil
}

// moveTask moves the task whose number is written, 0 for the writer itself.
func moveTask(fs *fileSystem, h *handle, c caller, text string) error {
	return move(fs, h, c, text, (*freezer.Group).AddTask)
}

// moveProcess moves a process, by the number of any of its tasks.
func moveProcess(fs *fileSystem, h *handle, c caller, text string) error {
	return move(fs, h, c, text, (*freezer.Group).Add)
}

func move(fs *fileSystem, h *handle, c caller, text string, add func(*freezer.Group, int) error) error {
	n, err := strconv.ParseInt(strings.Trim(text, " \t\r\n\v\f\x00"), 10, 32)
	if err != nil || n < 0 {
		return fmt.Errorf("%w: %q", freezer.ErrPID, text)
	}
	id := c.tid
	if n != 0 {
		v, err := h.viewOf(fs, c)
		if err != nil {
			return err
		}
		id = v.find(int(n))
	}
	if id == 0 {
		return freezer.ErrNoTask
	}
	if err := h.by.mayMove(id); err != nil {
		return err
	}
	g, err := fs.f.Group(fs.nodes.path(h.node))
	if err != nil {
		return err
	}
	defer g.Close()
	if err := h.node.is(g); err != nil {
		return err
	}
	if proc.Process(id) == os.Getpid() {
		if err := h.mayHold(g); err != nil {
			return err
		}
	}
	return add(g, id)
}

// mayMove is the rule of the kernel's own file system: root may move all, others
// what runs as them. Whether the file may be written was seen when it was opened.
func (c caller) mayMove(id int) error {
	if c.uid == 0 || int(c.uid) == os.Geteuid() {
		return nil // the kernel tells the server itself what it may
	}
	uids := strings.Fields(proc.Status(id, "Uid")) // real, effective, saved
	if len(uids) < 3 {
		return freezer.ErrNoTask
	}
	if self := strconv.Itoa(int(c.uid)); self != uids[0] && self != uids[2] {
		return unix.EACCES
	}
	return nil
}

// mayHold refuses what would freeze the server, or a thread of it.
func (h *handle) mayHold(g *freezer.Group) error {
	s, err := g.States()
	if err == nil && (h.file.name == "tasks" || s.Self != freezer.Thawed || s.Parent != freezer.Thawed) {
		return fmt.Errorf("%w: it is the server of this file system", freezer.ErrSelf)
	}
	return err
}
