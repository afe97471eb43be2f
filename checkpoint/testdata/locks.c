// Locks of all kinds.
#include <sys/file.h>

static int set(int fd, int cmd, int type, off_t start, off_t length) {
	struct flock l = {.l_type = type, .l_start = start, .l_len = length};
	return fcntl(fd, cmd, &l);
}
// other is what a process that has no lock is told about a range.
static struct flock other(int fd, int type, off_t start, off_t length) {
	struct flock *l = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), r;
	*l = (struct flock){.l_type = type, .l_start = start, .l_len = length};
	int pid = fork();
	if (pid == 0) _exit(fcntl(fd, F_GETLK, l) != 0);
	int st;
	CHECK(waitpid(pid, &st, 0) == pid && st == 0);
	r = *l;
	munmap(l, 4096);
	return r;
}

static void locks(void) {
	int a = open("a", O_RDWR | O_CREAT, 0600), twin = dup(a), b = open("a", O_RDWR), c = open("c", O_RDWR | O_CREAT, 0600), d = open("c", O_RDWR);
	int e = open("e", O_RDONLY | O_CREAT, 0600), e2 = open("e", O_RDONLY), o = open("o", O_RDWR | O_CREAT, 0600), o2 = open("o", O_RDWR);
	int sync[2], back[2];
	CHECK(pipe(sync) == 0 && pipe(back) == 0);
	CHECK(flock(c, LOCK_EX) == 0 && flock(e, LOCK_SH) == 0 && flock(e2, LOCK_SH) == 0);
	CHECK(set(a, F_SETLK, F_WRLCK, 0, 10) == 0 && set(b, F_SETLK, F_RDLCK, 100, 0) == 0);
	CHECK(set(o, F_OFD_SETLK, F_WRLCK, 5, 1) == 0 && set(o2, F_OFD_SETLK, F_RDLCK, 7, 1L << 40) == 0);
	int pid = fork();
	if (pid == 0) {
		CHECK(set(a, F_SETLK, F_WRLCK, 20, 10) == 0);
		CHECK(write(back[1], "r", 1) == 1);
		CHECK(set(twin, F_SETLKW, F_WRLCK, 0, 1) == 0); // waits
		CHECK(set(a, F_SETLK, F_WRLCK, 9, 1) == -1 && errno == EAGAIN);
		CHECK(write(back[1], "w", 1) == 1);
		char x;
		CHECK(read(sync[0], &x, 1) == 1);
		_exit(failures);
	}
	char x;
	CHECK(read(back[0], &x, 1) == 1);
	ready();
	await();
	struct flock l = other(a, F_WRLCK, 0, 0);
	CHECK(l.l_type == F_WRLCK && l.l_pid == getpid() && l.l_start == 0 && l.l_len == 10);
	l = other(a, F_WRLCK, 200, 1);
	CHECK(l.l_type == F_RDLCK && l.l_pid == getpid() && l.l_start == 100 && l.l_len == 0);
	CHECK(other(a, F_RDLCK, 200, 1).l_type == F_UNLCK && other(a, F_WRLCK, 10, 10).l_type == F_UNLCK);
	l = (struct flock){.l_type = F_WRLCK, .l_start = 15, .l_len = 80};
	CHECK(fcntl(a, F_GETLK, &l) == 0 && l.l_type == F_WRLCK && l.l_pid == pid && l.l_start == 20 && l.l_len == 10);
	CHECK(set(a, F_SETLK, F_UNLCK, 0, 1) == 0 && read(back[0], &x, 1) == 1 && x == 'w');
	CHECK(flock(d, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK && flock(d, LOCK_EX | LOCK_NB) == -1);
	CHECK(flock(c, LOCK_UN) == 0 && flock(d, LOCK_EX | LOCK_NB) == 0);
	CHECK(flock(e, LOCK_EX | LOCK_NB) == -1 && flock(e2, LOCK_UN) == 0 && flock(e, LOCK_EX | LOCK_NB) == 0);
	CHECK(set(o2, F_OFD_SETLK, F_RDLCK, 5, 1) == -1 && errno == EAGAIN && set(o2, F_OFD_SETLK, F_WRLCK, 4, 1) == 0);
	CHECK(set(o, F_OFD_SETLK, F_WRLCK, 7, 1) == -1 && set(o, F_OFD_SETLK, F_RDLCK, 1L << 39, 1) == 0 && set(o, F_OFD_SETLK, F_WRLCK, (1L << 40) + 7, 1) == 0);
	CHECK(write(sync[1], "x", 1) == 1);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}
