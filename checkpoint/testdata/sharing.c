// System V and POSIX shared memory.
#include <semaphore.h>
#include <sys/ipc.h>
#include <sys/shm.h>

static void sharing(void) {
	char name[64], sem[64];
	snprintf(name, sizeof name, "/freezer-test-%d", getpid());
	snprintf(sem, sizeof sem, "freezer-test-sem-%d", getpid());
	key_t key = 0x46000000 | getpid();
	int keyed = shmget(key, 3 * 4096 + 5, IPC_CREAT | IPC_EXCL | 0640), private = shmget(IPC_PRIVATE, 1 << 20, 0600);
	CHECK(keyed >= 0 && private >= 0);
	unsigned *k = shmat(keyed, 0, 0), *ro = shmat(keyed, 0, SHM_RDONLY), *p = shmat(private, 0, 0);
	shmctl(private, IPC_RMID, 0);
	fill(k, 8192, 1);
	fill(p, 100000, 2);
	int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0604);
	CHECK(ftruncate(fd, 1 << 20) == 0);
	unsigned *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fill(m + 4096, 8192, 3);
	sem_t *s = sem_open(sem, O_CREAT | O_EXCL, 0600, 3);
	CHECK(s != SEM_FAILED);
	int back[2], sync[2];
	CHECK(pipe(back) == 0 && pipe(sync) == 0);
	int pid = fork();
	if (pid == 0) {
		shmdt(ro);
		CHECK(write(back[1], "r", 1) == 1);
		char c;
		CHECK(read(sync[0], &c, 1) == 1);
		CHECK(p[30000] == 7 && m[9] == 8 && sem_trywait(s) == 0);
		k[3001] = 2;
		_exit(failures);
	}
	char c;
	CHECK(read(back[0], &c, 1) == 1);
	ready();
	await();
	struct shmid_ds d;
	CHECK(shmctl(keyed, IPC_STAT, &d) == 0 && d.shm_segsz == 3 * 4096 + 5 && (d.shm_perm.mode & 0777) == 0640 && d.shm_nattch == 3);
	CHECK(shmget(key, 0, 0) == keyed && !(d.shm_perm.mode & SHM_DEST));
	CHECK(shmctl(private, IPC_STAT, &d) == 0 && d.shm_nattch == 2 && (d.shm_perm.mode & SHM_DEST));
	CHECK(filled(k, 8192, 1) && filled(ro, 8192, 1) && filled(p, 100000, 2) && filled(m + 4096, 8192, 3) && m[0] == 0);
	p[30000] = 7;
	m[9] = 8;
	struct stat a, b;
	int other = shm_open(name, O_RDWR, 0);
	CHECK(fstat(fd, &a) == 0 && fstat(other, &b) == 0 && a.st_ino == b.st_ino && (a.st_mode & 0777) == 0604 && a.st_size == 1 << 20 && a.st_nlink == 1);
	CHECK(pread(other, &c, 1, 36) == 1 && c == 8);
	sem_t *s2 = sem_open(sem, 0);
	int v = 0;
	CHECK(s2 != SEM_FAILED && sem_getvalue(s2, &v) == 0 && v == 3);
	CHECK(write(sync[1], "x", 1) == 1);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(k[3001] == 2 && ro[3001] == 2 && sem_getvalue(s2, &v) == 0 && v == 2);
	CHECK(shmdt(k) == 0 && shmdt(ro) == 0 && shmdt(p) == 0);
	CHECK(shmctl(private, IPC_STAT, &d) == -1 && shmctl(keyed, IPC_STAT, &d) == 0 && d.shm_nattch == 0);
	CHECK(shmctl(keyed, IPC_RMID, 0) == 0 && shm_unlink(name) == 0 && sem_unlink(sem) == 0);
}
