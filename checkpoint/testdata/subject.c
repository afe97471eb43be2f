// A program that makes a state, says ready, waits for SIGUSR1, and then looks
// whether the state is what it was. Its argument says which state.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;
#define CHECK(ok) do { if (!(ok)) { failures++; printf("line %d: %s (errno %d)\n", __LINE__, #ok, errno); fflush(stdout); } } while (0)

static volatile sig_atomic_t go, usr2, queued_value, on_alt, alarms;
static char alt[65536];
static void on_go(int s) { (void)s; go = 1; }
static void on_usr2(int s, siginfo_t *i, void *u) {
	(void)s; (void)u;
	char here;
	usr2++;
	queued_value = i->si_value.sival_int;
	on_alt = &here >= alt && &here < alt + sizeof alt;
}
static void on_alarm(int s) { (void)s; alarms++; }

static void ready(void) { printf("ready\n"); fflush(stdout); }
// await lets SIGUSR1 in only while it waits.
static void await(void) {
	sigset_t none;
	sigfillset(&none);
	sigdelset(&none, SIGUSR1);
	while (!go) sigsuspend(&none);
}
static void prepare(void) {
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigprocmask(SIG_BLOCK, &s, 0);
	struct sigaction a = {.sa_handler = on_go};
	sigaction(SIGUSR1, &a, 0);
}

static void signals(void) {
	stack_t st = {.ss_sp = alt, .ss_size = sizeof alt};
	sigaltstack(&st, 0);
	struct sigaction a = {.sa_sigaction = on_usr2, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART}, b;
	sigaddset(&a.sa_mask, SIGHUP);
	sigaction(SIGUSR2, &a, 0);
	signal(SIGPIPE, SIG_IGN);
	struct sigaction c = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
	sigaction(SIGCHLD, &c, 0);
	struct sigaction d = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	sigaction(SIGALRM, &d, 0);
	sigaction(SIGVTALRM, &d, 0);
	sigset_t s, t;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGUSR2);
	sigaddset(&s, SIGRTMIN);
	sigprocmask(SIG_SETMASK, &s, 0);
	union sigval v = {.sival_int = 4711};
	sigqueue(getpid(), SIGRTMIN, v);
	v.sival_int = 4712;
	sigqueue(getpid(), SIGRTMIN, v);
	v.sival_int = 4713;
	sigqueue(getpid(), SIGUSR2, v);
	syscall(SYS_tgkill, getpid(), gettid(), SIGRTMIN);
	struct itimerval real = {{3000, 5}, {2000, 7}}, now;
	setitimer(ITIMER_REAL, &real, 0);
	struct itimerval virt = {{0, 0}, {5000, 0}};
	setitimer(ITIMER_VIRTUAL, &virt, 0);
	ready();
	await();
	sigprocmask(SIG_SETMASK, 0, &t);
	CHECK(sigismember(&t, SIGUSR1) && sigismember(&t, SIGUSR2) && sigismember(&t, SIGRTMIN) && !sigismember(&t, SIGHUP));
	sigaction(SIGUSR2, 0, &b);
	CHECK(b.sa_sigaction == on_usr2 && (b.sa_flags & ~0x04000000) == (SA_SIGINFO | SA_ONSTACK | SA_RESTART));
	CHECK(sigismember(&b.sa_mask, SIGHUP) && !sigismember(&b.sa_mask, SIGINT));
	sigaction(SIGPIPE, 0, &b);
	CHECK(b.sa_handler == SIG_IGN);
	sigaction(SIGCHLD, 0, &b);
	CHECK(b.sa_handler == SIG_DFL && b.sa_flags & SA_NOCLDWAIT);
	sigaction(SIGTERM, 0, &b);
	CHECK(b.sa_handler == SIG_DFL);
	siginfo_t i;
	sigset_t rt;
	sigemptyset(&rt);
	sigaddset(&rt, SIGRTMIN);
	struct timespec zero = {0, 0};
	int got = sigtimedwait(&rt, &i, &zero);
	CHECK(got == SIGRTMIN && i.si_code == SI_USER && i.si_pid == getpid());
	CHECK(sigtimedwait(&rt, &i, &zero) == SIGRTMIN && i.si_code == SI_QUEUE && i.si_value.sival_int == 4711);
	CHECK(sigtimedwait(&rt, &i, &zero) == SIGRTMIN && i.si_value.sival_int == 4712);
	CHECK(sigtimedwait(&rt, &i, &zero) == -1);
	CHECK(usr2 == 0);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, 0);
	CHECK(usr2 == 1 && queued_value == 4713 && on_alt);
	getitimer(ITIMER_REAL, &now);
	CHECK(now.it_interval.tv_sec == 3000 && now.it_interval.tv_usec == 5 && now.it_value.tv_sec >= 1900 && now.it_value.tv_sec <= 2000);
	getitimer(ITIMER_VIRTUAL, &now);
	CHECK(now.it_value.tv_sec >= 4900 && now.it_value.tv_sec <= 5000);
	CHECK(alarms == 0);
}

static void fill(unsigned *p, size_t bytes, unsigned seed) {
	for (size_t i = 0; i < bytes / 4; i++) p[i] = seed = seed * 1664525 + 1013904223;
}
static int filled(unsigned *p, size_t bytes, unsigned seed) {
	for (size_t i = 0; i < bytes / 4; i++) if (p[i] != (seed = seed * 1664525 + 1013904223)) return 0;
	return 1;
}

static void memory(void) {
	size_t n = 3 << 20;
	void *rw = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(rw, n, 1);
	void *ro = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(ro, n, 2);
	mprotect(ro, n, PROT_READ);
	void *none = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	fill(none, n, 3);
	mprotect(none, n, PROT_NONE);
	void *zero = mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(zero, 1, 64 << 20);
	memset(zero, 0, 64 << 20);
	int exe = open("/proc/self/exe", O_RDONLY);
	char *file = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe, 0);
	memset(file + 4096, 0, 4096);
	file[8192] = 'x';
	int data = open("data", O_RDWR | O_CREAT, 0600);
	if (ftruncate(data, 8192)) abort();
	char *sf = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, data, 0);
	sf[5000] = 'a';
	close(data);
	close(exe);
	unsigned *shared = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fill(shared, n / 2, 4);
	unsigned *part = mremap(shared + n / 8, 0, n / 2, MREMAP_MAYMOVE);
	CHECK(part != MAP_FAILED);
	mprotect(part, n / 2, PROT_READ);
	char *advised = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(advised, 8192, MADV_DONTFORK);
	char *locked = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mlock(locked, 8192);
	void *brk0 = sbrk(0);
	void *heap = malloc(100000), *brk1 = sbrk(40);
	fill(heap, 100000, 5);
	volatile char deep[100000];
	fill((unsigned *)deep, sizeof deep, 6);
	struct timespec t0, t1;
	clock_gettime(CLOCK_MONOTONIC, &t0); // by the vdso
	ready();
	await();
	clock_gettime(CLOCK_MONOTONIC, &t1);
	CHECK(t1.tv_sec - t0.tv_sec >= 0 && t1.tv_sec - t0.tv_sec < 1000);
	CHECK(filled(rw, n, 1));
	CHECK(filled(ro, n, 2));
	mprotect(none, n, PROT_READ);
	CHECK(filled(none, n, 3));
	for (char *p = zero; p < (char *)zero + (64 << 20); p += 4096) if (*p) { CHECK(*p == 0); break; }
	CHECK(file[0] == 0x7f && file[1] == 'E' && file[4096] == 0 && file[8191] == 0 && file[8192] == 'x');
	CHECK(sf[5000] == 'a');
	sf[5001] = 'b';
	char c = 0;
	data = open("data", O_RDONLY);
	CHECK(pread(data, &c, 1, 5001) == 1 && c == 'b');
	CHECK(filled(shared, n / 2, 4));
	shared[n / 8] = 77;
	CHECK(part[0] == 77);
	CHECK(shared[n / 4 - 1] == 0 || 1);
	int pid = fork();
	if (pid == 0) {
		shared[1] = 99;
		unsigned char vec[1];
		_exit(mincore(advised, 4096, vec) == -1 && errno == ENOMEM ? 0 : 1);
	}
	int st;
	CHECK(waitpid(pid, &st, 0) == pid && st == 0);
	CHECK(shared[1] == 99);
	CHECK(filled(heap, 100000, 5));
	CHECK(sbrk(0) == (char *)brk1 + 40 && sbrk(0) >= brk0);
	CHECK(sbrk(4096) != (void *)-1);
	CHECK(filled((unsigned *)deep, sizeof deep, 6));
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");
	int kb = -1;
	while (fgets(line, sizeof line, f)) sscanf(line, "VmLck: %d", &kb);
	CHECK(kb == 8);
}

static void identity(int argc, char **argv) {
	prctl(PR_SET_NAME, "renamed");
	umask(037);
	struct rlimit l = {123, 456}, m;
	setrlimit(RLIMIT_NOFILE, &l);
	setpriority(PRIO_PROCESS, 0, 7);
	cpu_set_t one, two;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof one, &one);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGHUP);
	prctl(PR_SET_TIMERSLACK, 70000);
	char cwd[4096], cwd2[4096], cmd[4096], cmd2[4096], exe[4096], exe2[4096], env[65536], env2[65536];
	if (!getcwd(cwd, sizeof cwd)) abort();
	int fd = open("/proc/self/cmdline", O_RDONLY);
	int cmdn = read(fd, cmd, sizeof cmd);
	close(fd);
	fd = open("/proc/self/environ", O_RDONLY);
	int envn = read(fd, env, sizeof env);
	close(fd);
	int exen = readlink("/proc/self/exe", exe, sizeof exe);
	int pid = getpid(), ppid = getppid(), sid = getsid(0), pgid = getpgid(0);
	(void)ppid; (void)argc; (void)sid;
	ready();
	await();
	CHECK(pid == getpid() && pid == syscall(SYS_getpid));
	CHECK(pgid != pid || getpgid(0) == pgid);
	char name[17] = "";
	prctl(PR_GET_NAME, name);
	CHECK(!strcmp(name, "renamed"));
	CHECK(umask(0) == 037);
	getrlimit(RLIMIT_NOFILE, &m);
	CHECK(m.rlim_cur == 123 && m.rlim_max == 456);
	CHECK(getpriority(PRIO_PROCESS, 0) == 7);
	sched_getaffinity(0, sizeof two, &two);
	CHECK(CPU_EQUAL(&one, &two));
	int v = 0;
	prctl(PR_GET_CHILD_SUBREAPER, &v);
	CHECK(v == 1);
	prctl(PR_GET_PDEATHSIG, &v);
	CHECK(v == SIGHUP);
	CHECK(prctl(PR_GET_TIMERSLACK) == 70000);
	CHECK(getcwd(cwd2, sizeof cwd2) && !strcmp(cwd, cwd2));
	fd = open("/proc/self/cmdline", O_RDONLY);
	CHECK(read(fd, cmd2, sizeof cmd2) == cmdn && !memcmp(cmd, cmd2, cmdn));
	fd = open("/proc/self/environ", O_RDONLY);
	CHECK(read(fd, env2, sizeof env2) == envn && !memcmp(env, env2, envn));
	CHECK(readlink("/proc/self/exe", exe2, sizeof exe2) == exen && !memcmp(exe, exe2, exen));
	CHECK(!strcmp(argv[1], "identity"));
	execl("/proc/self/exe", "subject", "again", NULL);
	CHECK(!"exec");
}

static void files(void) {
	int a = open("a", O_RDWR | O_CREAT, 0600);
	CHECK(write(a, "0123456789", 10) == 10);
	lseek(a, 4, SEEK_SET);
	int b = dup(a), c = open("a", O_RDONLY | O_CLOEXEC), d = dup2(open("a", O_WRONLY | O_APPEND | O_NONBLOCK), 100);
	int null = open("/dev/null", O_RDWR), dir = open(".", O_RDONLY | O_DIRECTORY);
	int p[2], q[2];
	CHECK(pipe(p) == 0 && pipe2(q, O_NONBLOCK | O_CLOEXEC) == 0);
	char big[50000];
	memset(big, 'z', sizeof big);
	CHECK(write(p[1], big, sizeof big) == sizeof big && write(p[1], "end", 3) == 3);
	int e = eventfd(5, EFD_NONBLOCK), es = eventfd(3, EFD_SEMAPHORE);
	int ep = epoll_create1(0);
	struct epoll_event ev = {EPOLLIN, {.u64 = 0x1122334455667788}}, got;
	epoll_ctl(ep, EPOLL_CTL_ADD, e, &ev);
	int tf = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct itimerspec its = {{500, 1}, {1000, 2}}, now;
	timerfd_settime(tf, 0, &its, 0);
	sigset_t hup;
	sigemptyset(&hup);
	sigaddset(&hup, SIGHUP);
	sigprocmask(SIG_BLOCK, &hup, 0);
	int sf = signalfd(-1, &hup, SFD_NONBLOCK);
	ready();
	await();
	char buf[60000];
	CHECK(lseek(a, 0, SEEK_CUR) == 4 && lseek(b, 0, SEEK_CUR) == 4);
	CHECK(read(a, buf, 2) == 2 && buf[0] == '4' && lseek(b, 0, SEEK_CUR) == 6);
	CHECK(lseek(c, 0, SEEK_CUR) == 0 && fcntl(c, F_GETFD) == FD_CLOEXEC && fcntl(a, F_GETFD) == 0);
	CHECK((fcntl(d, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK)) == (O_WRONLY | O_APPEND | O_NONBLOCK));
	CHECK(write(d, "xy", 2) == 2 && pread(a, buf, 2, 10) == 2 && buf[1] == 'y');
	CHECK(write(null, "x", 1) == 1 && read(null, buf, 1) == 0);
	CHECK(fchdir(dir) == 0);
	int n = 0, k;
	while (n < 50003 && (k = read(p[0], buf + n, sizeof buf - n)) > 0) n += k;
	CHECK(n == 50003 && buf[0] == 'z' && buf[49999] == 'z' && !memcmp(buf + 50000, "end", 3));
	CHECK(write(p[1], "more", 4) == 4 && read(p[0], buf, 4) == 4);
	close(p[1]);
	CHECK(read(p[0], buf, 1) == 0);
	CHECK(read(q[0], buf, 1) == -1 && errno == EAGAIN);
	CHECK(write(q[1], "1", 1) == 1 && read(q[0], buf, 1) == 1);
	CHECK(epoll_wait(ep, &got, 1, 0) == 1 && got.data.u64 == 0x1122334455667788 && got.events == EPOLLIN);
	uint64_t v = 0;
	CHECK(read(e, &v, 8) == 8 && v == 5);
	CHECK(read(e, &v, 8) == -1 && errno == EAGAIN);
	CHECK(epoll_wait(ep, &got, 1, 0) == 0);
	CHECK(read(es, &v, 8) == 8 && v == 1);
	timerfd_gettime(tf, &now);
	CHECK(now.it_interval.tv_sec == 500 && now.it_interval.tv_nsec == 1 && now.it_value.tv_sec > 900 && now.it_value.tv_sec <= 1000);
	raise(SIGHUP);
	struct signalfd_siginfo si;
	CHECK(read(sf, &si, sizeof si) == sizeof si && si.ssi_signo == SIGHUP);
}

// sleeper is in a call with a timeout of two seconds.
static int sleepers;
static long milliseconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
static void *sleeper(void *arg) {
	struct timespec t = {2, 0}, rest = {2, 0};
	struct pollfd none = {-1, 0, 0};
	struct epoll_event ev;
	int word = 1, ep = epoll_create1(0);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	__sync_fetch_and_add(&sleepers, 1);
	switch ((int)(intptr_t)arg) {
	case 0: CHECK(syscall(SYS_nanosleep, &t, &rest) == 0); break;
	case 1: CHECK(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, &t) == 0); break;
	case 2: CHECK(poll(&none, 1, 2000) == 0); break;
	case 3: CHECK(syscall(SYS_futex, &word, 0, 1, &t, 0, 0) == -1 && errno == ETIMEDOUT); break;
	case 4: CHECK(select(0, 0, 0, 0, &(struct timeval){2, 0}) == 0); break;
	case 5: CHECK(ppoll(&none, 1, &t, 0) == 0); break;
	// SIGSTOP and SIGCONT make these fail.
	case 6: CHECK(epoll_wait(ep, &ev, 1, 2000) == 0); break;
	case 7: CHECK(sigtimedwait(&set, 0, &t) == -1 && errno == EAGAIN); break;
	}
	return (void *)milliseconds();
}

// sleeps says when each of the first n calls has begun and returned.
static void sleeps(int n) {
	pthread_t t[8];
	long begin = milliseconds();
	for (intptr_t i = 0; i < n; i++) pthread_create(&t[i], 0, sleeper, (void *)i);
	while (sleepers < n) usleep(1000);
	ready();
	await();
	for (int i = 0; i < n; i++) {
		void *end;
		pthread_join(t[i], &end);
		printf("call %d: from %ld to %ld\n", i, begin, (long)end);
	}
	fflush(stdout);
}

static pthread_barrier_t barrier;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static volatile int released, spinning = 1;
static __thread int mine;
static int wake[2];
static int tids[8];

static void *thread(void *arg) {
	int n = (int)(intptr_t)arg;
	mine = 1000 + n;
	tids[n] = gettid();
	char name[16];
	snprintf(name, sizeof name, "thread-%d", n);
	pthread_setname_np(pthread_self(), name);
	double x = n + 0.5;
	char c;
	pthread_barrier_wait(&barrier);
	switch (n % 4) {
	case 0:
		pthread_mutex_lock(&mutex);
		while (!released) pthread_cond_wait(&cond, &mutex);
		pthread_mutex_unlock(&mutex);
		break;
	case 1:
		while (spinning) x = x * 1.0000001 + 0.0;
		x = n + 0.5;
		break;
	case 2:
		CHECK(read(wake[0], &c, 1) == 1);
		break;
	case 3: {
		struct timespec t = {0, 200000000};
		while (!released) CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0) == 0);
	}
	}
	CHECK(mine == 1000 + n && x == n + 0.5);
	CHECK(gettid() == tids[n]);
	char now[16];
	pthread_getname_np(pthread_self(), now, sizeof now);
	CHECK(!strcmp(now, name));
	return arg;
}

static void threads(void) {
	pthread_t t[8];
	CHECK(pipe(wake) == 0);
	pthread_barrier_init(&barrier, 0, 9);
	pthread_mutex_t *robust = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(robust, &a);
	for (int i = 0; i < 8; i++) pthread_create(&t[i], 0, thread, (void *)(intptr_t)i);
	pthread_barrier_wait(&barrier);
	ready();
	await();
	pthread_mutex_lock(&mutex);
	released = 1;
	spinning = 0;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&mutex);
	CHECK(write(wake[1], "ab", 2) == 2);
	for (int i = 0; i < 8; i++) {
		void *r;
		CHECK(pthread_join(t[i], &r) == 0 && r == (void *)(intptr_t)i); // by clear_child_tid
	}
	pthread_t more;
	CHECK(pthread_create(&more, 0, thread, (void *)3) == 0);
	pthread_barrier_init(&barrier, 0, 1);
	(void)more;
	if (fork() == 0) { pthread_mutex_lock(robust); _exit(0); }
	wait(0);
	CHECK(pthread_mutex_lock(robust) == EOWNERDEAD); // by the robust list
}

static void registers(void) {
	static volatile int stop;
	struct sigaction a = {.sa_handler = on_go};
	sigaction(SIGUSR1, &a, 0);
	sigset_t s;
	sigemptyset(&s);
	sigprocmask(SIG_SETMASK, &s, 0);
	(void)stop;
	uint64_t in[8] = {1, 2, 3, 4, 5, 6, 7, 8}, r[6] = {0};
	unsigned char out[64] = {0};
	uint16_t cw = 0x0f7f, cw2 = 0;
	ready();
	__asm__ volatile(
		"fninit\n fldcw %[cw]\n fldpi\n"
		"movdqu (%[in]), %%xmm3\n movdqu 16(%[in]), %%xmm15\n"
		"mov $0x1111, %%r8\n mov $0x2222, %%r9\n mov $0x3333, %%r10\n mov $0x4444, %%r12\n mov $0x5555, %%r13\n mov $0x6666, %%r15\n"
		"std\n"
		"1: cmpl $0, %[go]\n je 1b\n"
		"pushfq\n pop %%rax\n cld\n"
		"mov %%r8, (%[r])\n mov %%r9, 8(%[r])\n mov %%r10, 16(%[r])\n mov %%r12, 24(%[r])\n mov %%r13, 32(%[r])\n mov %%r15, 40(%[r])\n"
		"movdqu %%xmm3, (%[out])\n movdqu %%xmm15, 16(%[out])\n fstpl 32(%[out])\n fnstcw %[cw2]\n mov %%rax, 40(%[out])\n"
		: [go] "+m"(go), [cw2] "=m"(cw2) : [in] "r"(in), [out] "r"(out), [r] "r"(r), [cw] "m"(cw)
		: "rax", "r8", "r9", "r10", "r12", "r13", "r15", "xmm3", "xmm15", "memory", "cc");
	CHECK(r[0] == 0x1111 && r[1] == 0x2222 && r[2] == 0x3333 && r[3] == 0x4444 && r[4] == 0x5555 && r[5] == 0x6666);
	CHECK(!memcmp(in, out, 32));
	double pi;
	memcpy(&pi, out + 32, 8);
	CHECK(pi > 3.14159265358 && pi < 3.14159265359 && cw2 == cw);
	CHECK(out[41] & 4); // the direction flag
}

static void tree(void) {
	int p[2], sync[2];
	CHECK(pipe(p) == 0 && pipe(sync) == 0);
	int f = open("shared", O_RDWR | O_CREAT, 0600);
	CHECK(write(f, "abcdefgh", 8) == 8);
	lseek(f, 2, SEEK_SET);
	unsigned *shared = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared[7] = 7;
	int zombie = fork();
	if (zombie == 0) _exit(42);
	int killed = fork();
	if (killed == 0) { raise(SIGTERM); _exit(0); }
	int leader = fork();
	if (leader == 0) {
		setsid();
		int below = fork();
		if (below == 0) {
			CHECK(write(sync[1], "b", 1) == 1);
			char c;
			CHECK(read(p[0], &c, 1) == 1 && c == 'x');
			CHECK(getsid(0) == getppid() && getpgid(0) == getppid());
			CHECK(read(f, &c, 1) == 1 && c == 'c');
			shared[8] = 8;
			_exit(failures);
		}
		CHECK(write(sync[1], "l", 1) == 1);
		int st;
		CHECK(waitpid(below, &st, 0) == below && st == 0);
		CHECK(getsid(0) == getpid());
		_exit(failures);
	}
	int group = fork();
	if (group == 0) {
		setpgid(0, 0);
		CHECK(write(sync[1], "g", 1) == 1);
		while (!shared[8]) usleep(1000);
		CHECK(getpgid(0) == getpid() && getsid(0) == getsid(getppid()));
		_exit(failures);
	}
	char c;
	for (int i = 0; i < 3; i++) CHECK(read(sync[0], &c, 1) == 1);
	siginfo_t si;
	CHECK(waitid(P_PID, zombie, &si, WEXITED | WNOWAIT) == 0 && waitid(P_PID, killed, &si, WEXITED | WNOWAIT) == 0);
	ready();
	await();
	int st;
	CHECK(waitpid(zombie, &st, 0) == zombie && WEXITSTATUS(st) == 42);
	CHECK(waitpid(killed, &st, 0) == killed && WTERMSIG(st) == SIGTERM);
	CHECK(shared[7] == 7);
	CHECK(write(p[1], "x", 1) == 1);
	CHECK(waitpid(leader, &st, 0) == leader && st == 0);
	CHECK(waitpid(group, &st, 0) == group && st == 0);
	CHECK(shared[8] == 8 && lseek(f, 0, SEEK_CUR) == 3);
}

#include "locks.c"
#include "nameless.c"
#include "pipes.c"
#include "seccomp.c"
#include "settings.c"
#include "sharing.c"
#include "stopped.c"
#include "timers.c"
#include "sockets.c"
#include "terminals.c"
#include "watches.c"

// rounds changes a little of much memory at each SIGUSR2, and looks at all of it in
// the end: pages that are written, given back, mapped anew, moved, made zero.
static volatile sig_atomic_t rounds_told;
static void on_round(int s) { (void)s; rounds_told++; }
static void rounds(void) {
	size_t n = 48 << 20;
	struct sigaction a = {.sa_handler = on_round};
	sigaction(SIGUSR2, &a, 0);
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR2);
	sigprocmask(SIG_BLOCK, &s, 0);
	unsigned *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(p, n, 1);
	int exe = open("/proc/self/exe", O_RDONLY);
	char *file = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe, 0), was = file[4096 + 7];
	file[7] = 'x';
	file[4096 + 7] = was + 1;
	char *moved = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill((void *)moved, 1 << 20, 7);
	char *fresh = 0, *split = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill((void *)split, 1 << 20, 9);
	ready();
	sigset_t none;
	sigfillset(&none);
	sigdelset(&none, SIGUSR1);
	sigdelset(&none, SIGUSR2);
	int done = 0;
	while (!go) {
		sigsuspend(&none);
		if (done == rounds_told) continue;
		if (++done == 1) {
			p[5 << 18] = 4711;
			memset((char *)p + (8 << 20), 0, 8192);
			madvise((char *)p + (12 << 20), 65536, MADV_DONTNEED);
			madvise(file + 4096, 4096, MADV_DONTNEED);
			munmap((char *)p + (16 << 20), 1 << 20);
			fresh = mmap((char *)p + (16 << 20), 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			fresh[1] = 'f';
			moved = mremap(moved, 1 << 20, 1 << 20, MREMAP_MAYMOVE | MREMAP_FIXED, moved - (64L << 30));
			if (moved == MAP_FAILED) abort();
			mprotect(split + (512 << 10), 512 << 10, PROT_READ);
		} else {
			p[6 << 18] = 4712;
			fresh[2] = 'g';
			file[7] = 'y';
		}
		printf("round %d\n", done);
		fflush(stdout);
	}
	CHECK(done == 2);
	CHECK(p[5 << 18] == 4711 && p[6 << 18] == 4712);
	CHECK(file[7] == 'y' && file[4096 + 7] == was);
	CHECK(fresh[1] == 'f' && fresh[2] == 'g' && fresh[3] == 0 && fresh[70000] == 0);
	CHECK(filled((void *)moved, 1 << 20, 7));
	CHECK(filled((void *)split, 1 << 20, 9));
	unsigned seed = 1;
	for (size_t i = 0; i < n / 4; i++) {
		seed = seed * 1664525 + 1013904223;
		size_t at = i * 4;
		unsigned want = seed;
		if (at >= 16 << 20 && at < 17 << 20) continue;
		if ((at >= 8 << 20 && at < (8 << 20) + 8192) || (at >= 12 << 20 && at < (12 << 20) + 65536)) want = 0;
		if (i == 5 << 18 || i == 6 << 18) continue;
		if (p[i] != want) { CHECK(!"memory is as it was"); break; }
	}
}

// bulk has much memory, for benchmarks: it says how long its own fork takes, and
// writes to 1 % of the memory at each SIGUSR2, or to 5 % each second.
static void bulk(char **argv) {
	size_t n = (size_t)atoi(argv[2]) << 20, pages = n / 4096;
	struct sigaction a = {.sa_handler = on_round};
	sigaction(SIGUSR2, &a, 0);
	char *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(p, n, MADV_NOHUGEPAGE);
	if (!strcmp(argv[3], "zeros")) memset(p, 0, n);
	else fill((void *)p, n, 1);
	double best = 1e9;
	for (int i = 0; i < 5; i++) {
		struct timespec t, u;
		clock_gettime(CLOCK_MONOTONIC, &t);
		pid_t child = fork();
		if (child == 0) _exit(0);
		clock_gettime(CLOCK_MONOTONIC, &u);
		waitpid(child, 0, 0);
		double us = (u.tv_sec - t.tv_sec) * 1e6 + (u.tv_nsec - t.tv_nsec) / 1e3;
		if (us < best) best = us;
	}
	printf("fork %.1f\n", best);
	ready();
	size_t at = 0;
	for (int done = 0;;) {
		if (!strcmp(argv[3], "busy")) usleep(10000);
		else pause();
		size_t some = !strcmp(argv[3], "busy") ? pages / 2000 : done < rounds_told ? pages / 100 : 0;
		for (size_t i = 0; i < some; i++) p[(at = (at + 1) % pages) * 4096]++;
		if (done < rounds_told) {
			printf("touched %d\n", ++done);
			fflush(stdout);
		}
	}
}

int main(int argc, char **argv) {
	if (!strcmp(argv[1], "again")) return 0;
	prepare();
	if (!strcmp(argv[1], "signals")) signals();
	else if (!strcmp(argv[1], "memory")) memory();
	else if (!strcmp(argv[1], "identity")) identity(argc, argv);
	else if (!strcmp(argv[1], "files")) files();
	else if (!strcmp(argv[1], "locks")) locks();
	else if (!strcmp(argv[1], "nameless")) nameless();
	else if (!strcmp(argv[1], "pipes")) pipes();
	else if (!strcmp(argv[1], "sharing")) sharing();
	else if (!strcmp(argv[1], "timers")) timers();
	else if (!strcmp(argv[1], "watches")) watches();
	else if (!strcmp(argv[1], "stopped")) stopped();
	else if (!strcmp(argv[1], "seccomp")) seccomp();
	else if (!strcmp(argv[1], "settings")) settings();
	else if (!strcmp(argv[1], "threads")) threads();
	else if (!strcmp(argv[1], "registers")) registers();
	else if (!strcmp(argv[1], "tree")) tree();
	else if (!strcmp(argv[1], "rounds")) rounds();
	else if (!strcmp(argv[1], "bulk")) bulk(argv);
	else if (!strcmp(argv[1], "sleeps")) sleeps(argc > 2 ? 6 : 8); // interrupted
	else if (!strcmp(argv[1], "sockets")) sockets();
	else if (!strcmp(argv[1], "internet")) internet();
	else if (!strcmp(argv[1], "connections")) connections();
	else if (!strcmp(argv[1], "terminals")) terminals();
	else return 99;
	return failures ? 1 : 0;
}
