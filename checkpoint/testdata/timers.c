// POSIX timers, with the kernel's own IDs.
struct kernel_sigevent { uint64_t value; int signo, notify, tid; char pad[44]; };

static int timer(clockid_t clock, int notify, int signo, uint64_t value, int tid) {
	struct kernel_sigevent e = {value, signo, notify, tid, ""};
	int id = -1;
	CHECK(syscall(SYS_timer_create, clock, &e, &id) == 0);
	return id;
}
static void arm(int id, long every, long after, long ns) {
	struct itimerspec t = {{every, every ? 3 : 0}, {after, ns}};
	CHECK(syscall(SYS_timer_settime, id, 0, &t, 0) == 0);
}
static struct itimerspec left(int id) {
	struct itimerspec t;
	CHECK(syscall(SYS_timer_gettime, id, &t) == 0);
	return t;
}

static volatile int timer_go, timer_tid;
static int timer_pipe[2];
static void *timer_thread(void *arg) {
	timer_tid = gettid();
	char c;
	CHECK(read(timer_pipe[0], &c, 1) == 1);
	sigset_t rt;
	sigemptyset(&rt);
	sigaddset(&rt, SIGRTMIN + 2);
	siginfo_t i;
	struct timespec second = {10, 0};
	CHECK(sigtimedwait(&rt, &i, &second) == SIGRTMIN + 2 && i.si_value.sival_int == 44 && i.si_code == SI_TIMER);
	return arg;
}
static void timer_notified(union sigval v) { timer_go = v.sival_int; }

static void timers(void) {
	sigset_t rt;
	sigemptyset(&rt);
	for (int s = SIGRTMIN; s <= SIGRTMIN + 3; s++) sigaddset(&rt, s);
	sigprocmask(SIG_BLOCK, &rt, 0);
	int own = timer(CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN, 0, 0); // while it has one thread
	CHECK(syscall(SYS_timer_delete, own) == 0);
	pthread_t t;
	CHECK(pipe(timer_pipe) == 0);
	pthread_create(&t, 0, timer_thread, 0);
	while (!timer_tid) usleep(1000);
	for (int i = 0; i < 5; i++) CHECK(syscall(SYS_timer_delete, timer(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0)) == 0); // a gap
	int a = timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 0x1122334455667788, 0), none = timer(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
	int idle = timer(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN + 1, 43, 0), thread = timer(CLOCK_MONOTONIC, SIGEV_SIGNAL | SIGEV_THREAD_ID, SIGRTMIN + 2, 44, timer_tid);
	int cpu = timer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 3, 45, 0), pending = timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 46, 0);
	clockid_t clock;
	pthread_getcpuclockid(t, &clock);
	int other = timer(clock, SIGEV_SIGNAL, SIGRTMIN + 1, 47, 0);
	CHECK(a == 6);
	arm(a, 100, 500, 0);
	arm(none, 7, 700, 0);
	arm(cpu, 0, 800, 0);
	arm(other, 0, 900, 0);
	arm(pending, 0, 0, 1);
	timer_t helped;
	struct sigevent e = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = timer_notified, .sigev_value.sival_int = 1};
	CHECK(timer_create(CLOCK_MONOTONIC, &e, &helped) == 0);
	usleep(1000);
	ready();
	await();
	struct itimerspec l = left(a);
	CHECK(l.it_interval.tv_sec == 100 && l.it_interval.tv_nsec == 3 && l.it_value.tv_sec >= 450 && l.it_value.tv_sec < 500);
	l = left(none);
	CHECK(l.it_interval.tv_sec == 7 && l.it_value.tv_sec >= 650 && l.it_value.tv_sec < 700);
	l = left(idle);
	CHECK(l.it_value.tv_sec == 0 && l.it_value.tv_nsec == 0);
	l = left(cpu);
	CHECK(l.it_value.tv_sec == 799 && l.it_interval.tv_sec == 0);
	l = left(other);
	CHECK(l.it_value.tv_sec == 899 || l.it_value.tv_sec == 900);
	siginfo_t i;
	struct timespec zero = {0, 0}, second = {10, 0};
	sigset_t one;
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN + 1);
	CHECK(sigtimedwait(&one, &i, &zero) == SIGRTMIN + 1 && i.si_code == SI_TIMER && i.si_value.sival_int == 46 && i.si_timerid == pending);
	CHECK(sigtimedwait(&one, &i, &zero) == -1 && syscall(SYS_timer_getoverrun, pending) == 0);
	arm(idle, 0, 0, 1000);
	CHECK(sigtimedwait(&one, &i, &second) == SIGRTMIN + 1 && i.si_value.sival_int == 43);
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN);
	arm(a, 0, 0, 1000);
	CHECK(sigtimedwait(&one, &i, &second) == SIGRTMIN && (uint64_t)i.si_value.sival_ptr == 0x1122334455667788 && i.si_timerid == a);
	struct itimerspec now = {{0, 0}, {0, 1000}};
	CHECK(timer_settime(helped, 0, &now, 0) == 0); // by the library's own thread
	while (!timer_go) usleep(1000);
	CHECK(write(timer_pipe[1], "x", 1) == 1);
	arm(thread, 0, 0, 1000);
	CHECK(pthread_join(t, 0) == 0);
	arm(cpu, 0, 0, 1000);
	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN + 3);
	while (sigtimedwait(&one, &i, &zero) != SIGRTMIN + 3);
	CHECK(i.si_value.sival_int == 45);
	for (int k = a; k <= other; k++) CHECK(syscall(SYS_timer_delete, k) == 0);
	CHECK(timer(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0) > other);
}
