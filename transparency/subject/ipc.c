// Calls that wait for other tasks: futexes, System V and POSIX queues, locks.
#include "stage.h"
#include <linux/futex.h>
#include <mqueue.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#ifndef FUTEX_LOCK_PI2
#define FUTEX_LOCK_PI2 13
#endif
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define SYS_FUTEX_WAIT 455

static void wake_word(struct subject *s) {
	s->word[0] = 1;
	syscall(SYS_futex, &s->word[0], FUTEX_WAKE, 1, NULL, NULL, 0);
}

static long do_futex_wait(struct subject *s, int ms) {
	struct timespec t = span(ms);
	return CALL(SYS_futex, &s->word[0], FUTEX_WAIT, 0, ms < 0 ? NULL : &t);
}

static long do_futex_wait_bitset(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_MONOTONIC, ms);
	return CALL6(SYS_futex, &s->word[0], FUTEX_WAIT_BITSET, 0, ms < 0 ? NULL : &t, NULL, FUTEX_BITSET_MATCH_ANY);
}

static long do_futex_waitv(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_MONOTONIC, ms);
	struct { uint64_t val, addr; uint32_t flags, reserved; } w = {0, (uintptr_t)&s->word[0], 2, 0};
	return CALL6(SYS_futex_waitv, &w, 1, 0, ms < 0 ? NULL : &t, CLOCK_MONOTONIC, 0);
}

static long do_futex2_wait(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_MONOTONIC, ms);
	return CALL6(SYS_FUTEX_WAIT, &s->word[0], 0, FUTEX_BITSET_MATCH_ANY, 2, ms < 0 ? NULL : &t, CLOCK_MONOTONIC);
}

static void hold_pi(struct subject *s) { s->word[0] = syscall(SYS_gettid); }

static void release_pi(struct subject *s) { syscall(SYS_futex, &s->word[0], FUTEX_UNLOCK_PI, 0, NULL, NULL, 0); }

static long do_futex_lock_pi(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_REALTIME, ms);
	return CALL(SYS_futex, &s->word[0], FUTEX_LOCK_PI, 0, ms < 0 ? NULL : &t);
}

static long do_futex_lock_pi2(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_MONOTONIC, ms);
	return CALL(SYS_futex, &s->word[0], FUTEX_LOCK_PI2, 0, ms < 0 ? NULL : &t);
}

static long do_futex_requeue_pi(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_MONOTONIC, ms);
	return CALL6(SYS_futex, &s->word[0], FUTEX_WAIT_REQUEUE_PI, 0, ms < 0 ? NULL : &t, &s->word[1], 0);
}

static void requeue_pi(struct subject *s) {
	s->word[0] = 1;
	syscall(SYS_futex, &s->word[0], FUTEX_CMP_REQUEUE_PI, 1, 0, &s->word[1], 1);
}

static void make_sem(struct subject *s) {
	s->a = ok(semget(IPC_PRIVATE, 1, 0600), "semget");
}

static void post_sem(struct subject *s) {
	struct sembuf op = {0, 1, 0};
	semop(s->a, &op, 1);
}

static long do_semop(struct subject *s, int ms) {
	struct sembuf op = {0, -1, 0};
	return CALL(SYS_semop, s->a, &op, 1, 0);
}

static long do_semtimedop(struct subject *s, int ms) {
	struct sembuf op = {0, -1, 0};
	struct timespec t = span(ms);
	return CALL(SYS_semtimedop, s->a, &op, 1, ms < 0 ? NULL : &t);
}

struct message { long type; char text[1024]; };

static void make_queue(struct subject *s) { s->a = ok(msgget(IPC_PRIVATE, 0600), "msgget"); }

static void fill_queue(struct subject *s) {
	make_queue(s);
	struct message m = {.type = 1};
	while (msgsnd(s->a, &m, sizeof m.text, IPC_NOWAIT) == 0) {}
}

static void post_message(struct subject *s) {
	struct message m = {.type = 1};
	msgsnd(s->a, &m, 8, IPC_NOWAIT);
}

static void take_message(struct subject *s) {
	struct message m;
	msgrcv(s->a, &m, sizeof m.text, 0, IPC_NOWAIT);
}

static long do_msgrcv(struct subject *s, int ms) {
	struct message m;
	return CALL6(SYS_msgrcv, s->a, &m, sizeof m.text, 0, 0, 0);
}

static long do_msgsnd(struct subject *s, int ms) {
	struct message m = {.type = 1};
	return CALL(SYS_msgsnd, s->a, &m, sizeof m.text, 0);
}

static void make_mq(struct subject *s) {
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 16};
	char name[64];
	snprintf(name, sizeof name, "/transparency.%d.%d", getpid(), s->id);
	s->a = ok(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attr), "mq_open");
	mq_unlink(name);
}

static void post_mq(struct subject *s) { mq_send(s->a, "x", 1, 0); }

static void make_full_mq(struct subject *s) {
	make_mq(s);
	post_mq(s);
}

static void take_mq(struct subject *s) {
	char buf[16];
	mq_receive(s->a, buf, sizeof buf, NULL);
}

static long do_mq_timedreceive(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_REALTIME, ms);
	return CALL6(SYS_mq_timedreceive, s->a, s->data, 16, NULL, ms < 0 ? NULL : &t, 0);
}

static long do_mq_timedsend(struct subject *s, int ms) {
	struct timespec t = deadline(CLOCK_REALTIME, ms);
	return CALL6(SYS_mq_timedsend, s->a, "y", 1, 0, ms < 0 ? NULL : &t, 0);
}

static void hold_flock(struct subject *s) {
	s->a = ok(open(s->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600), "open");
	ok(flock(s->a, LOCK_EX), "flock");
}

static void reopen(struct subject *s) { s->b = ok(open(s->path, O_RDWR), "open"); }

static void release_flock(struct subject *s) { flock(s->a, LOCK_UN); }

static long do_flock(struct subject *s, int ms) { return CALL(SYS_flock, s->b, LOCK_EX, 0, 0); }

static struct flock whole(short type) { return (struct flock){.l_type = type, .l_whence = SEEK_SET}; }

static void hold_fcntl(struct subject *s) {
	struct flock lock = whole(F_WRLCK);
	s->a = ok(open(s->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600), "open");
	ok(fcntl(s->a, F_SETLK, &lock), "F_SETLK");
}

static void release_fcntl(struct subject *s) {
	struct flock lock = whole(F_UNLCK);
	fcntl(s->a, F_SETLK, &lock);
}

static long do_setlkw(struct subject *s, int ms) {
	struct flock lock = whole(F_WRLCK);
	return CALL(SYS_fcntl, s->b, F_SETLKW, &lock, 0);
}

static long do_ofd_setlkw(struct subject *s, int ms) {
	struct flock lock = whole(F_WRLCK);
	return CALL(SYS_fcntl, s->b, F_OFD_SETLKW, &lock, 0);
}

static void hold_lease(struct subject *s) {
	signal(SIGIO, SIG_IGN);
	s->a = ok(open(s->path, O_CREAT | O_RDONLY | O_CLOEXEC, 0600), "open");
	ok(fcntl(s->a, F_SETLEASE, F_RDLCK), "F_SETLEASE");
}

static void release_lease(struct subject *s) { fcntl(s->a, F_SETLEASE, F_UNLCK); }

static long opened(long r) { return r > 0 ? 1 : r; }

static long do_open_lease(struct subject *s, int ms) { return opened(CALL(SYS_open, s->path, O_WRONLY, 0, 0)); }

const struct call ipc_calls[] = {
	{"futex FUTEX_WAIT", TIMED | EVENT, NULL, NULL, do_futex_wait, wake_word},
	{"futex FUTEX_WAIT_BITSET", TIMED | EVENT, NULL, NULL, do_futex_wait_bitset, wake_word},
	{"futex FUTEX_LOCK_PI", TIMED | EVENT, hold_pi, NULL, do_futex_lock_pi, release_pi},
	{"futex FUTEX_LOCK_PI2", TIMED | EVENT, hold_pi, NULL, do_futex_lock_pi2, release_pi},
	{"futex FUTEX_WAIT_REQUEUE_PI", TIMED | EVENT, NULL, NULL, do_futex_requeue_pi, requeue_pi},
	{"futex_waitv", TIMED | EVENT, NULL, NULL, do_futex_waitv, wake_word},
	{"futex_wait", TIMED | EVENT, NULL, NULL, do_futex2_wait, wake_word},
	{"semop", EVENT, make_sem, NULL, do_semop, post_sem},
	{"semtimedop", TIMED | EVENT, make_sem, NULL, do_semtimedop, post_sem},
	{"msgrcv", EVENT, make_queue, NULL, do_msgrcv, post_message},
	{"msgsnd", EVENT, fill_queue, NULL, do_msgsnd, take_message},
	{"mq_timedreceive", TIMED | EVENT, make_mq, NULL, do_mq_timedreceive, post_mq},
	{"mq_timedsend", TIMED | EVENT, make_full_mq, NULL, do_mq_timedsend, take_mq},
	{"flock", EVENT, hold_flock, reopen, do_flock, release_flock},
	{"fcntl F_SETLKW", EVENT, hold_fcntl, reopen, do_setlkw, release_fcntl},
	{"fcntl F_OFD_SETLKW", EVENT, hold_fcntl, reopen, do_ofd_setlkw, release_fcntl},
	{"open of a leased file", EVENT, hold_lease, NULL, do_open_lease, release_lease},
	{0},
};
