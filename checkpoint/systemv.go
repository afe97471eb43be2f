package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// System V shared memory is found again by its ID, which programs keep, or by its
// key. The kernel gives a wanted ID to the next that asks (kernel.shm_next_id).
//
// While a restore works it has no permissions (mode 0), which a restore that comes
// later takes as the sign that this one was killed.

const (
	systemVPrefix = "/SYSV"
	shmDest       = 0o1000 // SHM_DEST: it is removed when nobody has it any more
	shmLocked     = 0o2000 // SHM_LOCKED
	shmLock       = 11     // of shmctl(2)
	nextShmID     = "/proc/sys/kernel/shm_next_id"
)

// systemVInode names System V memory, whose inode number is its ID, and could be the
// number of other memory.
func systemVInode(device, id uint64) inode { return inode{^device, id} }

// systemV notes System V memory that is mapped.
func (s *survey) systemV(p *Process, a area, m *Mapping) {
	id, err := strconv.Atoi(a.inode)
	var d unix.SysvShmDesc
	if err == nil {
		_, err = unix.SysvShmCtl(id, unix.IPC_STAT, &d)
	}
	if err != nil {
		s.hinder(p.PID, a.where(), "its System V shared memory cannot be read: %v", err)
		return
	}
	node := systemVInode(a.device, uint64(id))
	i, ok := s.shared[node]
	if !ok {
		i = s.share(node, origin{p.PID, a.where(), a.mapFile(p.PID)}, &Contents{
			Kind: contentsSystemV, Path: strings.TrimSuffix(a.name, deletedSuffix), Length: int64(d.Segsz),
			Mode: d.Perm.Mode, UID: int(d.Perm.Uid), GID: int(d.Perm.Gid), ID: id, Key: d.Perm.Key,
		})
	}
	m.Object = i
	s.withinShared(p, a, i)
}

// makeSystemV makes System V memory, or finds it, and has the first process attach
// it at an address.
func (r *restorer) makeSystemV(i int) error {
	c := r.job.Shared[i].Contents
	found, err := c.findSystemV()
	if err == nil && !found {
		err = c.createSystemV()
	}
	if err != nil {
		return fmt.Errorf("shared memory of System V, %d: %w", c.ID, err)
	}
	if !found {
		r.contents[i].named = true
	}
	at := uintptr(r.sharedAt[i])
	r.nursery.expect(at, "attaching System V memory", unix.SYS_SHMAT, uintptr(c.ID), at, 0)
	if err := r.nursery.work(); err != nil {
		return err
	}
	if c.Mode&shmDest != 0 && !found {
		if _, err := unix.SysvShmCtl(c.ID, unix.IPC_RMID, nil); err != nil {
			return err
		}
	}
	file, err := open(area{start: uint64(at), end: uint64(at) + r.job.Shared[i].Size}.mapFile(r.nursery.pid), unix.O_RDWR)
	if err != nil {
		return err
	}
	r.contents[i].file, r.contents[i].fill = file, file
	if found {
		r.contents[i], err = c.beside(file)
	}
	return err
}

// findSystemV says whether the memory is there, and nobody has it. What a killed
// restore left it removes.
func (c *Contents) findSystemV() (found bool, err error) {
	var d unix.SysvShmDesc
	switch _, err := unix.SysvShmCtl(c.ID, unix.IPC_STAT, &d); {
	case err == unix.EINVAL || err == unix.EIDRM:
		return false, nil
	case err != nil:
		return false, err
	case d.Perm.Key != c.Key || d.Segsz != uint64(c.Length):
		return false, errors.New("the ID belongs to other memory now")
	case d.Nattch != 0:
		return false, errors.New("others have it attached")
	}
	if d.Perm.Mode&0o777 != 0 || c.Mode&0o777 == 0 {
		return true, nil
	}
	if _, err := proc.ReadStat(int(d.Cpid)); err == nil {
		return false, fmt.Errorf("process %d is about to restore it", d.Cpid)
	}
	_, err = unix.SysvShmCtl(c.ID, unix.IPC_RMID, nil)
	return false, err
}

// createSystemV makes the memory, without permissions.
func (c *Contents) createSystemV() error {
	for range 10 { // somebody else may take the ID that was meant for us
		if err := os.WriteFile(nextShmID, []byte(strconv.Itoa(c.ID)), 0); err != nil {
			return fmt.Errorf("to make it with the same ID, be root or have CAP_CHECKPOINT_RESTORE: %w", err)
		}
		id, err := unix.SysvShmGet(int(c.Key), int(c.Length), unix.IPC_CREAT|unix.IPC_EXCL)
		if err == unix.EEXIST {
			return fmt.Errorf("its key %#x belongs to other memory now", uint32(c.Key))
		}
		if err != nil {
			return err
		}
		if id == c.ID {
			return nil
		}
		if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
			return err
		}
	}
	return errors.New("the ID is taken")
}

// finishSystemV gives the memory its permissions.
func (c *Contents) finishSystemV() error {
	var d unix.SysvShmDesc
	d.Perm.Uid, d.Perm.Gid, d.Perm.Mode = uint32(c.UID), uint32(c.GID), c.Mode&0o777
	_, err := unix.SysvShmCtl(c.ID, unix.IPC_SET, &d)
	if err == nil && c.Mode&shmLocked != 0 {
		_, err = unix.SysvShmCtl(c.ID, shmLock, nil)
	}
	return err
}
