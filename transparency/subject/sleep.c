// Calls that sleep, that wait for signals and that wait for children.
#include "stage.h"
#include <sys/signalfd.h>
#include <sys/time.h>

static long do_nanosleep(struct subject *s, int ms) {
	struct timespec t = span(ms);
	return CALL(SYS_nanosleep, &t, NULL, 0, 0);
}

static long do_clock_nanosleep(struct subject *s, int ms) {
	struct timespec t = span(ms);
	return CALL(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &t, NULL);
}

static long do_clock_nanosleep_abs(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_MONOTONIC, ms);
	return CALL(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static long do_clock_nanosleep_real(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_REALTIME, ms);
	return CALL(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
}

static void block_usr2(struct subject *s) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void unblock_usr2(void) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void send_usr2(struct subject *s) { syscall(SYS_tgkill, s->pid, s->tid, SIGUSR2); }

static long do_pause(struct subject *s, int ms) {
	unblock_usr2();
	return CALL(SYS_pause, 0, 0, 0, 0);
}

// An alarm is the timeout of calls that have none.
static long do_pause_alarm(struct subject *s, int ms) {
	unblock_usr2();
	struct itimerval it = {.it_value = {ms / 1000, ms % 1000 * 1000}};
	signal(SIGALRM, SIG_DFL);
	struct sigaction sa;
	sigaction(SIGUSR2, NULL, &sa);
	sigaction(SIGALRM, &sa, NULL);
	if (ms > 0) setitimer(ITIMER_REAL, &it, NULL);
	return CALL(SYS_pause, 0, 0, 0, 0);
}

static long do_sigsuspend(struct subject *s, int ms) {
	uint64_t none = 0;
	return CALL(SYS_rt_sigsuspend, &none, 8, 0, 0);
}

static long do_sigtimedwait(struct subject *s, int ms) {
	uint64_t set = 1ULL << (SIGUSR2 - 1);
	struct timespec t = span(ms);
	return CALL(SYS_rt_sigtimedwait, &set, NULL, ms < 0 ? NULL : &t, 8);
}

static long do_sigtimedwait_timer(struct subject *s, int ms) {
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
	struct itimerspec it = {.it_value = span(ms)};
	timer_t timer;
	uint64_t set = 1ULL << (SIGUSR2 - 1);
	if (ms > 0 && timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0) timer_settime(timer, 0, &it, NULL);
	return CALL(SYS_rt_sigtimedwait, &set, NULL, NULL, 8);
}

static void make_signalfd(struct subject *s) {
	block_usr2(s);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	s->a = signalfd(-1, &set, 0);
}

static long do_read_signalfd(struct subject *s, int ms) { return CALL(SYS_read, s->a, s->data, 128, 0); }

// The child is no member of the group and lives until the event kills it.
static void make_child(struct subject *s) {
	pid_t pid = ok(fork(), "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) pause();
	}
	s->helper = pid;
}

static void kill_child(struct subject *s) {
	if (s->helper) kill(s->helper, SIGKILL);
}

static long reaped(long r) { return r > 0 ? 1 : r; }

static long do_wait4(struct subject *s, int ms) {
	int status;
	return reaped(CALL(SYS_wait4, s->helper, &status, 0, NULL));
}

static long do_waitid(struct subject *s, int ms) {
	siginfo_t si;
	return CALL6(SYS_waitid, P_ALL, 0, &si, WEXITED, NULL, 0);
}

static long do_waitid_pidfd(struct subject *s, int ms) {
	siginfo_t si;
	int fd = syscall(SYS_pidfd_open, s->helper, 0);
	return CALL6(SYS_waitid, P_PIDFD, fd, &si, WEXITED, NULL, 0);
}

static long do_vfork(struct subject *s, int ms) {
	char byte;
	pid_t pid = vfork();
	if (pid == 0) {
		read(s->a, &byte, 1);
		_exit(0);
	}
	return pid > 0 ? 0 : -errno;
}

const struct call sleep_calls[] = {
	{"nanosleep", TIMED, NULL, NULL, do_nanosleep, NULL},
	{"clock_nanosleep", TIMED, NULL, NULL, do_clock_nanosleep, NULL},
	{"clock_nanosleep, absolute", TIMED, NULL, NULL, do_clock_nanosleep_abs, NULL},
	{"clock_nanosleep, absolute, real time", TIMED, NULL, NULL, do_clock_nanosleep_real, NULL},
	{"pause", EVENT, NULL, NULL, do_pause, send_usr2},
	{"pause, ended by an alarm", TIMED | EVENT | THREAD, NULL, NULL, do_pause_alarm, send_usr2},
	{"rt_sigsuspend", EVENT, NULL, block_usr2, do_sigsuspend, send_usr2},
	{"rt_sigtimedwait", TIMED | EVENT, NULL, block_usr2, do_sigtimedwait, send_usr2},
	{"rt_sigtimedwait for a POSIX timer", TIMED | EVENT | THREAD, NULL, block_usr2, do_sigtimedwait_timer, send_usr2},
	{"read of a signalfd", EVENT, NULL, make_signalfd, do_read_signalfd, send_usr2},
	{"wait4", EVENT, NULL, make_child, do_wait4, kill_child},
	{"waitid", EVENT, NULL, make_child, do_waitid, kill_child},
	{"waitid of a pidfd", EVENT, NULL, make_child, do_waitid_pidfd, kill_child},
	{"vfork", EVENT, make_pipe, NULL, do_vfork, put_byte},
	{0},
};
