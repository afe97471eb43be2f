// storm MODE FILE [N]: makes tasks without pause, all of which count in FILE.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_ulong *count;
static char **args;

static void work(void)
{
	for (int i = 0; i < 20; i++)
		atomic_fetch_add(count, 1);
}

// The first process forks children that end at once.
static void forks(void)
{
	for (;;) {
		pid_t p = fork();
		if (p == 0) {
			work();
			_exit(0);
		}
		work();
		waitpid(p, 0, 0);
	}
}

// Each process ends as soon as it has a child.
static void hop(void)
{
	for (time_t end = time(0) + 120; time(0) < end;) { // should nobody catch it
		work();
		if (fork() > 0)
			_exit(0);
		usleep(100);
	}
}

// Like forks, with children that no tracer gets by itself.
static void untraced(void)
{
	for (;;) {
		pid_t p = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
		if (p == 0) {
			work();
			_exit(0);
		}
		work();
		waitpid(p, 0, 0);
	}
}

static void *thread(void *unused)
{
	work();
	return unused;
}

static void threads(void)
{
	for (;;) {
		pthread_t t[4];
		for (int i = 0; i < 4; i++)
			pthread_create(&t[i], 0, thread, 0);
		for (int i = 0; i < 4; i++)
			pthread_join(t[i], 0);
	}
}

static void again(void) { execv("/proc/self/exe", args); }

static void exec(void)
{
	work();
	again();
}

static void *spin(void *unused)
{
	for (;;) {
		work();
		usleep(50);
	}
	return unused;
}

static void *execer(void *unused)
{
	usleep(300);
	again();
	return unused;
}

// One thread of several executes the program again; it is not the first one.
static void threadexec(void)
{
	pthread_t t;
	for (int i = 0; i < 6; i++)
		pthread_create(&t, 0, i == 3 ? execer : spin, 0);
	spin(0);
}

static void vforks(void)
{
	for (;;) {
		pid_t p = vfork();
		if (p == 0) {
			execl("/bin/true", "true", (char *)0);
			_exit(1);
		}
		work();
		waitpid(p, 0, 0);
	}
}

// busy N: threads that do nothing but count.
static void *busywork(void *unused)
{
	for (;;)
		atomic_fetch_add(count, 1);
	return unused;
}

static void sleeping(int n, int thread)
{
	for (int i = 1; i < n; i++) {
		pthread_t t;
		pthread_attr_t a;
		pthread_attr_init(&a);
		pthread_attr_setstacksize(&a, 32 << 10);
		if (thread)
			pthread_create(&t, &a, (void *(*)(void *))pause, 0);
		else if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
	atomic_fetch_add(count, 1);
	for (;;)
		pause();
}

int main(int n, char **v)
{
	args = v;
	int fd = open(v[2], O_RDWR);
	count = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (count == MAP_FAILED)
		return 1;
	if (!strcmp(v[1], "fork")) forks();
	if (!strcmp(v[1], "hop")) hop();
	if (!strcmp(v[1], "untraced")) untraced();
	if (!strcmp(v[1], "thread")) threads();
	if (!strcmp(v[1], "exec")) exec();
	if (!strcmp(v[1], "threadexec")) threadexec();
	if (!strcmp(v[1], "vfork")) vforks();
	if (!strcmp(v[1], "processes")) sleeping(atoi(v[3]), 0);
	if (!strcmp(v[1], "threads")) sleeping(atoi(v[3]), 1);
	if (!strcmp(v[1], "headless")) { // the first thread ends, others go on
		pthread_t t;
		pthread_create(&t, 0, spin, 0);
		pthread_create(&t, 0, spin, 0);
		pthread_exit(0);
	}
	if (!strcmp(v[1], "busy")) {
		pthread_t t;
		for (int i = 1; i < atoi(v[3]); i++)
			pthread_create(&t, 0, busywork, 0);
		busywork(0);
	}
	return 1;
}
