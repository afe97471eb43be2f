// seccomp filters, which each thread has of its own.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

// say installs a filter that says something of a call.
static int say(int nr, unsigned what, int flags) {
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, what),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {4, f};
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}
static int deny(int nr, int error, int flags) { return say(nr, SECCOMP_RET_ERRNO | error, flags); }
static int filters(void) {
	char line[256];
	int n = -1;
	FILE *f = fopen("/proc/thread-self/status", "r");
	while (fgets(line, sizeof line, f)) sscanf(line, "Seccomp_filters: %d", &n);
	fclose(f);
	return n;
}
static int error_of(long r) { return r == -1 ? errno : 0; }

static int filter_pipe[2], filter_back[2];
static void *filtered(void *arg) {
	CHECK(deny(SYS_sync, 77, 0) == 0);
	char c;
	CHECK(write(filter_back[1], "x", 1) == 1 && read(filter_pipe[0], &c, 1) == 1);
	CHECK(error_of(syscall(SYS_sync)) == 77 && error_of(syscall(SYS_getpgrp)) == 55 && filters() == 2);
	return arg;
}

static void seccomp(void) {
	int privileged = getenv("NO_NEW_PRIVS") == NULL;
	if (!privileged) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	CHECK(deny(SYS_getpgrp, 55, SECCOMP_FILTER_FLAG_LOG) == 0);
	pthread_t t;
	char c;
	CHECK(pipe(filter_pipe) == 0 && pipe(filter_back) == 0);
	pthread_create(&t, 0, filtered, 0);
	CHECK(read(filter_back[0], &c, 1) == 1);
	CHECK(deny(SYS_getpgrp, 56, 0) == 0 && deny(SYS_getitimer, 57, 0) == 0); // what it is asked by
	CHECK(error_of(syscall(SYS_getpgrp)) == 55 || error_of(syscall(SYS_getpgrp)) == 56);
	int was = error_of(syscall(SYS_getpgrp));
	if (getenv("KILLED")) CHECK(say(SYS_sigaltstack, SECCOMP_RET_KILL_PROCESS, 0) == 0);
	if (getenv("ASKED")) CHECK(say(SYS_sync, SECCOMP_RET_USER_NOTIF, 0) == 0);
	static char selector; // SYSCALL_DISPATCH_FILTER_ALLOW
	if (getenv("DISPATCHED")) CHECK(prctl(59, 1, 0, 0, &selector) == 0);
	ready();
	await();
	if (getenv("KILLED") || getenv("ASKED") || getenv("DISPATCHED")) exit(failures);
	CHECK(filters() == 3 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == !privileged);
	CHECK(error_of(syscall(SYS_getpgrp)) == was && error_of(syscall(SYS_sync)) == 0);
	struct itimerval v;
	CHECK(error_of(syscall(SYS_getitimer, ITIMER_REAL, &v)) == 57);
	CHECK(write(filter_pipe[1], "x", 1) == 1);
	CHECK(pthread_join(t, 0) == 0);
	int pid = fork(), st; // a child has them, too
	if (pid == 0) _exit(error_of(syscall(SYS_getpgrp)) == was ? failures : 1);
	CHECK(waitpid(pid, &st, 0) == pid && st == 0);
}
