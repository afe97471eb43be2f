// Files that have no name: memfd and deleted ones.
#include <sys/statfs.h>
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8
#define F_SEAL_EXEC 0x20
#endif

static ino_t inode_of(int fd) {
	struct stat st;
	CHECK(fstat(fd, &st) == 0);
	return st.st_ino;
}

static void nameless(void) {
	char link[64], path[64], buf[10000];
	int m = memfd_create("a name", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(ftruncate(m, 3 * 4096 + 100) == 0);
	fill((unsigned *)buf, 8000, 1);
	CHECK(pwrite(m, buf, 8000, 4200) == 8000);
	lseek(m, 77, SEEK_SET);
	fcntl(m, F_ADD_SEALS, F_SEAL_GROW);
	snprintf(path, sizeof path, "/proc/self/fd/%d", m);
	int again = open(path, O_RDONLY), copy = dup(m);
	char *shared = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0);
	char *part = mmap(0, 4096, PROT_READ, MAP_SHARED, m, 8192);
	char *private = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, m, 4096);
	shared[5] = 'a';
	private[4] = 'p';
	int empty = memfd_create("", 0);
	int sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
	CHECK(write(sealed, "sealed", 6) == 6);
	CHECK(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
	char *sm = mmap(0, 4096, PROT_READ, MAP_SHARED, sealed, 0);
	CHECK(sm != MAP_FAILED);
	int future = memfd_create("future", MFD_ALLOW_SEALING);
	CHECK(ftruncate(future, 4096) == 0);
	char *fm = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0);
	CHECK(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
	fm[1] = 'f';
	int noexec = memfd_create("noexec", MFD_NOEXEC_SEAL);
	int mapped = memfd_create("mapped", 0); // no descriptor
	CHECK(ftruncate(mapped, 64 << 20) == 0);
	unsigned *mm = mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
	fill(mm + (32 << 18), 100000, 2);
	close(mapped);

	int d = open("deleted", O_RDWR | O_CREAT, 0640);
	CHECK(write(d, "0123456789", 10) == 10 && ftruncate(d, 1L << 32) == 0);
	CHECK(pwrite(d, "far", 3, (1L << 32) - 3) == 3);
	fill((unsigned *)buf, 8000, 3);
	CHECK(pwrite(d, buf, 8000, 1L << 31) == 8000);
	int append = open("deleted", O_WRONLY | O_APPEND);
	char *dm = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, d, 1L << 31);
	char *dp = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, d, 1L << 31);
	dp[9] = 'x';
	unlink("deleted");
	struct stat st0, st;
	fstat(d, &st0);
	struct statfs fs0, fs;
	fstatfs(d, &fs0);
	int locked = open(".", O_TMPFILE | O_RDWR, 0600); // to be linked later
	CHECK(write(locked, "linked", 6) == 6);
	int sync[2], back[2];
	CHECK(pipe(sync) == 0 && pipe(back) == 0);
	int pid = fork();
	if (pid == 0) {
		char c;
		CHECK(write(back[1], "r", 1) == 1 && read(sync[0], &c, 1) == 1);
		CHECK(shared[6] == 'b' && mm[9] == 99 && dm[5000] == 'd');
		mm[10] = 100;
		CHECK(lseek(copy, 0, SEEK_CUR) == 78);
		_exit(failures);
	}
	char c;
	CHECK(read(back[0], &c, 1) == 1);
	ready();
	await();
	struct stat a, b;
	fstat(m, &a);
	fstat(again, &b);
	CHECK(a.st_ino == b.st_ino && a.st_size == 3 * 4096 + 100 && a.st_nlink == 0 && (a.st_mode & 07777) == 0777);
	ssize_t n = readlink(path, link, sizeof link);
	CHECK(n == 23 && !memcmp(link, "/memfd:a name (deleted)", 23));
	CHECK(lseek(m, 0, SEEK_CUR) == 77 && lseek(copy, 0, SEEK_CUR) == 77 && lseek(again, 0, SEEK_CUR) == 0);
	CHECK(fcntl(m, F_GETFD) == FD_CLOEXEC && (fcntl(again, F_GETFL) & O_ACCMODE) == O_RDONLY);
	CHECK(fcntl(m, F_GET_SEALS) == F_SEAL_GROW && ftruncate(m, 1 << 20) == -1 && errno == EPERM);
	CHECK(pread(m, buf, 8000, 4200) == 8000 && filled((unsigned *)buf, 8000, 1));
	CHECK(shared[5] == 'a' && private[4] == 'p' && shared[4100] == 0 && !memcmp(part, shared + 8192, 4096) && private[0] == 0);
	shared[6] = 'b';
	CHECK(pread(again, buf, 1, 6) == 1 && buf[0] == 'b');
	CHECK(write(m, "z", 1) == 1 && shared[77] == 'z' && private[4097] == shared[8193]);
	fstat(empty, &a);
	CHECK(a.st_size == 0 && fcntl(empty, F_GET_SEALS) == F_SEAL_SEAL && write(empty, "x", 1) == 1);
	CHECK(!memcmp(sm, "sealed", 7) && fcntl(sealed, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL));
	CHECK(pwrite(sealed, "x", 1, 0) == -1 && errno == EPERM && mprotect(sm, 4096, PROT_READ | PROT_WRITE) == -1);
	CHECK(fm[1] == 'f' && (fm[2] = 'g') && pwrite(future, "x", 1, 0) == -1 && errno == EPERM);
	fstat(noexec, &a);
	CHECK((a.st_mode & 07777) == 0666 && fcntl(noexec, F_GET_SEALS) == F_SEAL_EXEC);
	CHECK(filled(mm + (32 << 18), 100000, 2) && mm[0] == 0);
	mm[9] = 99;

	CHECK(fstat(d, &st) == 0 && fstatfs(d, &fs) == 0);
	CHECK(st.st_dev == st0.st_dev && st.st_mode == st0.st_mode && st.st_size == st0.st_size && st.st_nlink == 0);
	CHECK(st.st_mtim.tv_sec == st0.st_mtim.tv_sec && st.st_mtim.tv_nsec == st0.st_mtim.tv_nsec);
	CHECK(fs.f_type == fs0.f_type && st.st_blocks < 1000 && inode_of(d) == inode_of(append));
	CHECK(lseek(d, 0, SEEK_CUR) == 10 && pread(d, buf, 10, 0) == 10 && !memcmp(buf, "0123456789", 10));
	CHECK(pread(d, buf, 3, (1L << 32) - 3) == 3 && !memcmp(buf, "far", 3));
	CHECK(pread(d, buf, 8000, 1L << 31) == 8000 && filled((unsigned *)buf, 8000, 3));
	CHECK(dp[9] == 'x' && dp[10] == buf[10] && dm[9] == buf[9]);
	dm[5000] = 'd';
	CHECK(pread(d, buf, 1, (1L << 31) + 5000) == 1 && buf[0] == 'd');
	CHECK(write(append, "end", 3) == 3 && fstat(d, &st) == 0 && st.st_size == st0.st_size + 3);
	CHECK(access("deleted", F_OK) == -1);
	snprintf(path, sizeof path, "/proc/self/fd/%d", locked);
	CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW) == 0 && unlink("linked") == 0);
	CHECK(write(sync[1], "x", 1) == 1);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(mm[10] == 100);
}
