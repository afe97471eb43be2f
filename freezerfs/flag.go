package freezerfs

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer"
	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/ptrace/tracer"
)

// Flags of a group are in the kernel's file of that name where there is one, on
// cgroup1, else in an attribute of the directory.

const (
	notifyFile = "notify_on_release"
	cloneFile  = "cgroup.clone_children" // means nothing to a freezer
	agentFile  = "release_agent"
)

// getFlag reads a flag of the group at dir.
func (fs *fileSystem) getFlag(dir, name string) (bool, error) {
	if fs.f.Backend() == freezer.Cgroup1 {
		text, err := kernfs.ReadFile(dir + "/" + name)
		return len(text) > 0 && text[0] == '1', err
	}
	value, _ := fs.attrs.get(dir, name)
	return value == "1", nil
}

func (fs *fileSystem) setFlag(dir, name string, on bool) error {
	value := string(bit(on)[:1])
	if fs.f.Backend() == freezer.Cgroup1 {
		return kernfs.WriteFile(dir+"/"+name, value)
	}
	return fs.attrs.set(dir, name, value)
}

// inheritFlags gives a new group the flags of its parent. On cgroup1 the kernel
// has done so.
func (fs *fileSystem) inheritFlags(parent *group, dir string) error {
	if fs.f.Backend() == freezer.Cgroup1 {
		return nil
	}
	set := fs.attrs.names(fs.dir(parent))
	for _, name := range []string{notifyFile, cloneFile} {
		if !strings.Contains(set, fs.attrs.prefix+name+"\x00") {
			continue
		}
		if on, _ := fs.getFlag(fs.dir(parent), name); on {
			if err := fs.setFlag(dir, name, true); err != nil {
				return err
			}
		}
	}
	return nil
}

func readFlag(fs *fileSystem, h *handle, _ caller) ([]byte, error) {
	g, err := fs.locate(h.node)
	if err != nil {
		return nil, err
	}
	on, err := fs.getFlag(fs.dir(g), h.file.name)
	return bit(on), err
}

func writeFlag(fs *fileSystem, h *handle, _ caller, text string) error {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 0, 64)
	if err != nil {
		return unix.EINVAL
	}
	g, err := fs.locate(h.node)
	if err != nil {
		return err
	}
	if err := fs.setFlag(fs.dir(g), h.file.name, n != 0); err != nil {
		return err
	}
	fs.releaser.settle()
	return nil
}

func readZero(*fileSystem, *handle, caller) ([]byte, error) { return bit(false), nil }

// agent is the program to run when a group is released; empty when there is none.
// At the top of a cgroup1 hierarchy that is the kernel's own affair.
func (fs *fileSystem) agent() string {
	value, _ := fs.attrs.get(fs.agentKeeper(), agentFile)
	return value
}

// agentKeeper is the file whose attribute the agent is. It is not the root's
// directory because who watches that one hears of each group that is made.
func (fs *fileSystem) agentKeeper() string {
	if fs.f.Backend() == freezer.Ptrace {
		return fs.f.Root() + "/" + tracer.ChangesName
	}
	return fs.f.Root() + "/cgroup.procs"
}

func readAgent(fs *fileSystem, _ *handle, _ caller) ([]byte, error) {
	if text, err := kernfs.ReadFile(fs.f.Root() + "/" + agentFile); err == nil {
		return text, nil
	}
	return []byte(fs.agent() + "\n"), nil
}

// writeAgent sets the program. As the server runs it, with all that the server
// may, one needs CAP_SYS_ADMIN for that, as with the kernel, or be the server's user.
func writeAgent(fs *fileSystem, _ *handle, c caller, text string) error {
	text = strings.TrimSpace(text)
	own := os.Geteuid() != 0 && int(c.uid) == os.Geteuid()
	switch {
	case !own && !c.more().capabilities.any(unix.CAP_SYS_ADMIN):
		return unix.EPERM
	case strings.ContainsRune(text, 0):
		return unix.EINVAL
	case unix.Access(fs.f.Root()+"/"+agentFile, unix.F_OK) == nil:
		return kernfs.WriteFile(fs.f.Root()+"/"+agentFile, text)
	}
	if err := fs.attrs.set(fs.agentKeeper(), agentFile, text); err != nil {
		return err
	}
	fs.releaser.settle()
	return nil
}
