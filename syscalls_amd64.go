package freezer

import "golang.org/x/sys/unix"

// System calls by what their first arguments are, as far as they can wait for
// a file system.
var (
	callsWithFile = append([]int{
		unix.SYS_GETDENTS,
	}, commonCallsWithFile...)
	callsWithPath = append([]int{
		unix.SYS_OPEN, unix.SYS_CREAT, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_ACCESS, unix.SYS_READLINK,
		unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_UNLINK, unix.SYS_RENAME, unix.SYS_LINK, unix.SYS_SYMLINK,
		unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_MKNOD, unix.SYS_UTIMES, unix.SYS_UTIME,
	}, commonCallsWithPath...)
	callsWithDirAndPath = append([]int{
		unix.SYS_NEWFSTATAT, unix.SYS_FUTIMESAT,
	}, commonCallsWithDirAndPath...)
)
