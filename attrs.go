package freezer

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Extended attributes of a group's directory, by descriptor and so of the very
// group whose files are open. Where the kernel keeps none there are none.

func (g *Group) listAttrs() (names []string, err error) {
	err = g.files.Use(func(fd int) error {
		var buf [1024]byte
		n, err := unix.Flistxattr(fd, buf[:])
		text := buf[:max(n, 0)]
		if err == unix.ERANGE {
			text = make([]byte, 64<<10) // XATTR_LIST_MAX
			n, err = unix.Flistxattr(fd, text)
			text = text[:max(n, 0)]
		}
		for name := range bytes.SplitSeq(text, []byte{0}) {
			if len(name) > 0 {
				names = append(names, string(name))
			}
		}
		return err
	})
	if err == unix.EOPNOTSUPP {
		return nil, nil
	}
	return names, err
}

// held says whether there is any hold, or calls to be minded at the thaw. It says
// so, too, when that is hard to tell.
func (g *Group) held() (held bool, err error) {
	err = g.files.Use(func(fd int) error {
		var buf [256]byte
		n, err := unix.Flistxattr(fd, buf[:])
		names := buf[:max(n, 0)]
		held = err == unix.ERANGE || bytes.Contains(names, []byte(holdPrefix)) || bytes.Contains(names, []byte(callsAttr))
		return err
	})
	if err == unix.EOPNOTSUPP || err == unix.ERANGE {
		err = nil
	}
	return held, err
}

func (g *Group) getAttr(name string) (value []byte, err error) {
	err = g.files.Use(func(fd int) error {
		buf := make([]byte, 4096)
		n, err := unix.Fgetxattr(fd, name, buf)
		if err == unix.ERANGE {
			buf = make([]byte, 64<<10) // XATTR_SIZE_MAX
			n, err = unix.Fgetxattr(fd, name, buf)
		}
		value = buf[:max(n, 0)]
		return err
	})
	return value, err
}

func (g *Group) setAttr(name string, value []byte) error {
	return g.files.Use(func(fd int) error { return unix.Fsetxattr(fd, name, value, 0) })
}

// removeAttr is no error when there is no such attribute.
func (g *Group) removeAttr(name string) error {
	err := g.files.Use(func(fd int) error { return unix.Fremovexattr(fd, name) })
	if err == unix.ENODATA {
		return nil
	}
	return err
}

// fresh does something with the group's files, and once more when those were of
// a group that has been removed, in case there is a new one of that name.
func (g *Group) fresh(do func() error) error {
	err := do()
	if err == unix.ENODEV || err == unix.ENOENT {
		g.files.Close()
		err = do()
	}
	if err == unix.ENODEV {
		err = unix.ENOENT
	}
	return err
}
