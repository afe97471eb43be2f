// The stage itself: see stage.h. It obeys lines on its standard input:
//
//	go        each subject makes its call, a little after the one before it
//	event     end the calls
//	signal    SIGUSR1 to each task that is in its call
//	report    a line for each subject, then "end"
//
// and is told by its arguments how: GROUP-FILE SCRATCH TIMEOUT-MS OPTIONS CALL...
// where OPTIONS has a letter for each of: h handle SIGUSR1 and SIGCONT, r with
// SA_RESTART, t make the call in a second thread, l only list the calls.
#include "stage.h"
#include <stdarg.h>
#include <sys/resource.h>

char scratch[64];

static const struct call *const tables[] = {sleep_calls, poll_calls, ipc_calls, file_calls, socket_calls, transfer_calls};
static struct subject *subjects;
static int count;
static int timeout;
static const char *options, *group;

static const int64_t stagger = 1500000; // ns between one subject's call and the next one's

void die(const char *what) {
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	_exit(3);
}

int ok(int result, const char *what) {
	if (result < 0) die(what);
	return result;
}

int64_t now(clockid_t clock) {
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct timespec spec(int64_t ns) { return (struct timespec){ns / 1000000000, ns % 1000000000}; }

struct timespec span(int ms) { return spec(ms * 1000000LL); }

struct timespec deadline(clockid_t clock, int ms) { return spec(now(clock) + ms * 1000000LL); }

long sys(long nr, ...) {
	va_list ap;
	long a[6];
	va_start(ap, nr);
	for (int i = 0; i < 6; i++) a[i] = va_arg(ap, long);
	va_end(ap);
	long r = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	return r < 0 ? -errno : r;
}

void make_pipe(struct subject *s) {
	int p[2];
	ok(pipe(p), "pipe");
	s->a = p[0], s->b = p[1];
}

int fill(int fd) {
	static char block[4096];
	int flags = fcntl(fd, F_GETFL), written = 0;
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	while (write(fd, block, sizeof block) > 0) written = 1;
	while (write(fd, block, 1) > 0) written = 1;
	fcntl(fd, F_SETFL, flags);
	return written;
}

void fill_up(int fd) {
	// TCP can put off an acknowledgement, and then has room again, by 40 ms.
	for (int i = 0, quiet = 0; i < 40 && quiet < 6; i++, usleep(10000)) quiet = fill(fd) ? 0 : quiet + 1;
}

void make_full_pipe(struct subject *s) {
	make_pipe(s);
	fill(s->b);
}

void put_byte(struct subject *s) {
	if (write(s->b, "x\n", 2) < 0) perror("put_byte");
}

void drain(struct subject *s) {
	char block[1 << 14];
	fcntl(s->a, F_SETFL, O_NONBLOCK);
	while (read(s->a, block, sizeof block) > 0) {}
}

static void *keep_draining(void *s) {
	for (int i = 0; i < 200 && !((struct subject *)s)->done; i++, usleep(3000)) drain(s);
	return NULL;
}

void drain_slowly(struct subject *s) {
	pthread_t t;
	if (pthread_create(&t, NULL, keep_draining, s) == 0) pthread_detach(t);
}

static struct subject *me; // in a subject

static void count_signal(int sig) {
	if (sig == SIGUSR1) me->usr1++;
	if (sig == SIGUSR2) me->usr2++;
	if (sig == SIGCONT) me->cont++;
}

static void handle(int sig, int flags) {
	struct sigaction sa = {.sa_handler = count_signal, .sa_flags = flags};
	sigaction(sig, &sa, NULL);
}

static void wait_until(volatile int *flag) {
	while (!*flag) syscall(SYS_futex, flag, 0 /* FUTEX_WAIT, shared */, 0, NULL, NULL, 0);
}

static void raise_flag(volatile int *flag) {
	*flag = 1;
	syscall(SYS_futex, flag, 1 /* FUTEX_WAKE, shared */, 1 << 30, NULL, NULL, 0);
}

static void *perform(void *unused) {
	struct subject *s = me;
	sigset_t all;
	if (strchr(options, 't')) {
		sigemptyset(&all);
		if (s->call->ready == NULL || (s->call->flags & THREAD) == 0) sigaddset(&all, SIGUSR2);
		pthread_sigmask(SIG_BLOCK, &all, NULL);
	}
	s->tid = syscall(SYS_gettid);
	raise_flag(&s->ready);
	wait_until(&s->go);
	struct timespec start = spec(s->began);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &start, NULL)) {}
	s->began = now(CLOCK_MONOTONIC);
	s->result = s->call->block(s, timeout);
	s->ended = now(CLOCK_MONOTONIC);
	raise_flag(&s->done);
	return NULL;
}

static void subject(struct subject *s) {
	me = s;
	s->pid = getpid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_TIMERSLACK, 1);
	if (strchr(options, 'h')) {
		handle(SIGUSR1, strchr(options, 'r') ? SA_RESTART : 0);
		handle(SIGCONT, SA_RESTART);
	}
	handle(SIGUSR2, 0);
	if (s->call->ready) s->call->ready(s);
	if (*group) {
		int fd = ok(open(group, O_WRONLY | O_CLOEXEC), group);
		if (write(fd, "0", 1) != 1) die(group);
		close(fd);
	}
	if (strchr(options, 't')) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, perform, NULL)) die("pthread_create");
		// Signals to the process are the other thread's.
		sigset_t all;
		sigfillset(&all);
		pthread_sigmask(SIG_BLOCK, &all, NULL);
		pthread_join(thread, NULL);
	} else {
		perform(NULL);
	}
	for (;;) syscall(SYS_pause);
}

static void start(const struct call *call) {
	struct subject *s = &subjects[count];
	s->call = call;
	s->id = count++;
	s->a = s->b = s->c = s->d = -1;
	snprintf(s->path, sizeof s->path, "%s/%d", scratch, s->id);
	if (call->setup) call->setup(s);
	pid_t pid = ok(fork(), "fork");
	if (pid == 0) {
		subject(s);
		_exit(0);
	}
	s->pid = pid;
	for (int i = 0; i < 4000 && !s->ready; i++) { // a subject can die of what it lacks
		if (waitpid(pid, NULL, WNOHANG) == pid) {
			fprintf(stderr, "%s: cannot be tried here\n", call->name);
			s->pid = 0;
			return;
		}
		usleep(500);
	}
}

static void go(void) {
	int64_t t = now(CLOCK_MONOTONIC) + 20000000;
	for (int i = 0; i < count; i++) {
		subjects[i].began = t + i * stagger;
		raise_flag(&subjects[i].go);
	}
	printf("went %lld\n", (long long)(t + count * stagger));
}

static void signal_all(void) {
	for (int i = 0; i < count; i++) {
		struct subject *s = &subjects[i];
		if (s->pid && !s->done) syscall(SYS_tgkill, s->pid, s->tid, SIGUSR1);
	}
}

static void end_all(void) {
	for (int i = 0; i < count; i++) {
		struct subject *s = &subjects[i];
		if (s->pid && s->call->event) s->call->event(s);
	}
}

// report tells, after all calls ended or time is up, what each subject saw, and
// whether its parent, which is this process, was told of a stop.
static void report(int64_t until) {
	for (int i = 0; i < count; i++) {
		struct subject *s = &subjects[i];
		if (!s->pid) continue;
		while (!s->done && now(CLOCK_MONOTONIC) < until) usleep(2000);
		siginfo_t si = {0};
		int told = waitid(P_PID, s->pid, &si, WSTOPPED | WCONTINUED | WNOHANG) == 0 && si.si_pid != 0;
		printf("%s\t%d\t%ld\t%lld\t%lld\t%d\t%d\t%d\n", s->call->name, s->done, s->result,
		       (long long)s->began, (long long)s->ended, s->usr1, s->cont, told);
	}
	printf("end\n");
}

static void finish(void) {
	for (int i = 0; i < count; i++) {
		if (subjects[i].helper) kill(subjects[i].helper, SIGKILL);
		if (subjects[i].pid) kill(subjects[i].pid, SIGKILL);
	}
}

static int wanted(const char *name, char **names) {
	if (*names == NULL) return 1;
	for (; *names; names++)
		if (strcmp(*names, name) == 0) return 1;
	return 0;
}

int main(int argc, char **argv) {
	if (argc < 5) return 2;
	group = argv[1], timeout = atoi(argv[3]), options = argv[4];
	snprintf(scratch, sizeof scratch, "%s", argv[2]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct rlimit files = {8192, 8192};
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	subjects = mmap(NULL, 256 * sizeof *subjects, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (unsigned t = 0; t < sizeof tables / sizeof *tables; t++)
		for (const struct call *c = tables[t]; c->name; c++) {
			if (strchr(options, 'l')) printf("%s\t%d\n", c->name, c->flags);
			else if (wanted(c->name, argv + 5)) start(c);
		}
	if (strchr(options, 'l')) return 0;
	for (int i = 0; i < count; i++)
		if (subjects[i].pid) printf("subject %d %d\n", subjects[i].pid, subjects[i].tid);
	printf("ready\n");
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		if (strcmp(line, "go\n") == 0) go();
		if (strcmp(line, "signal\n") == 0) signal_all();
		if (strcmp(line, "event\n") == 0) end_all();
		if (strncmp(line, "report", 6) == 0) report(now(CLOCK_MONOTONIC) + atoi(line + 6) * 1000000LL);
	}
	finish();
	return 0;
}
