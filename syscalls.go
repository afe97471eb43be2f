package freezer

import "golang.org/x/sys/unix"

// What every architecture has.
var (
	commonCallsWithFile = []int{
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_READV, unix.SYS_WRITEV,
		unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_GETDENTS64,
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_SYNCFS, unix.SYS_FALLOCATE,
		unix.SYS_FLOCK, unix.SYS_FCHMOD, unix.SYS_FCHOWN, unix.SYS_CLOSE, unix.SYS_IOCTL, unix.SYS_FCHDIR,
	}
	commonCallsWithPath = []int{
		unix.SYS_CHDIR, unix.SYS_TRUNCATE, unix.SYS_EXECVE, unix.SYS_STATFS, unix.SYS_CHROOT,
		unix.SYS_SETXATTR, unix.SYS_GETXATTR, unix.SYS_LISTXATTR, unix.SYS_REMOVEXATTR,
	}
	commonCallsWithDirAndPath = []int{
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_FCHOWNAT, unix.SYS_UNLINKAT,
		unix.SYS_LINKAT, unix.SYS_READLINKAT, unix.SYS_FCHMODAT, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
		unix.SYS_UTIMENSAT, unix.SYS_STATX, unix.SYS_EXECVEAT, unix.SYS_RENAMEAT2,
	}
)
