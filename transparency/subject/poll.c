// Calls that wait for descriptors.
#include "stage.h"
#include <linux/aio_abi.h>
#include <sys/epoll.h>
#include <sys/select.h>

static long do_poll(struct subject *s, int ms) {
	struct pollfd p = {.fd = s->a, .events = POLLIN};
	return CALL(SYS_poll, &p, 1, ms, 0);
}

// A call that writes what was left of its timeout shows that in its result,
// too: it is zero after a time-out, and what a clock says otherwise.
static long checked(long r, int ms, int64_t left) {
	if (ms >= 0 && r == 0 && left != 0) return -1000 - left / 1000000;
	return r;
}

static int64_t ns(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

static long do_ppoll(struct subject *s, int ms) {
	struct pollfd p = {.fd = s->a, .events = POLLIN};
	struct timespec t = span(ms);
	uint64_t none = 0;
	long r = CALL6(SYS_ppoll, &p, 1, ms < 0 ? NULL : &t, &none, 8, 0);
	return checked(r, ms, ns(t));
}

// A timeout in memory that cannot be written.
static long do_ppoll_const(struct subject *s, int ms) {
	struct pollfd p = {.fd = s->a, .events = POLLIN};
	struct timespec *t = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*t = span(ms);
	mprotect(t, 4096, PROT_READ);
	return CALL6(SYS_ppoll, &p, 1, ms < 0 ? NULL : t, NULL, 0, 0);
}

static long do_select(struct subject *s, int ms) {
	fd_set set;
	FD_ZERO(&set);
	FD_SET(s->a, &set);
	struct timeval t = {ms / 1000, ms % 1000 * 1000};
	long r = CALL6(SYS_select, s->a + 1, &set, NULL, NULL, ms < 0 ? NULL : &t, 0);
	return checked(r, ms, t.tv_sec * 1000000000LL + t.tv_usec * 1000LL);
}

static long do_select_sleep(struct subject *s, int ms) {
	struct timeval t = {ms / 1000, ms % 1000 * 1000};
	long r = CALL6(SYS_select, 0, NULL, NULL, NULL, &t, 0);
	return checked(r, ms, t.tv_sec * 1000000000LL + t.tv_usec * 1000LL);
}

static long do_pselect6(struct subject *s, int ms) {
	fd_set set;
	FD_ZERO(&set);
	FD_SET(s->a, &set);
	struct timespec t = span(ms);
	uint64_t none = 0;
	struct { uint64_t *set; size_t size; } mask = {&none, 8};
	long r = CALL6(SYS_pselect6, s->a + 1, &set, NULL, NULL, ms < 0 ? NULL : &t, &mask);
	return checked(r, ms, ns(t));
}

static void make_epoll(struct subject *s) {
	make_pipe(s);
	s->c = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN};
	epoll_ctl(s->c, EPOLL_CTL_ADD, s->a, &ev);
}

static long do_epoll_wait(struct subject *s, int ms) {
	struct epoll_event ev;
	return CALL(SYS_epoll_wait, s->c, &ev, 1, ms);
}

static long do_epoll_pwait(struct subject *s, int ms) {
	struct epoll_event ev;
	uint64_t none = 0;
	return CALL6(SYS_epoll_pwait, s->c, &ev, 1, ms, &none, 8);
}

static long do_epoll_pwait2(struct subject *s, int ms) {
	struct epoll_event ev;
	struct timespec t = span(ms);
	return CALL6(SYS_epoll_pwait2, s->c, &ev, 1, ms < 0 ? NULL : &t, NULL, 0);
}

static void make_aio(struct subject *s) {
	aio_context_t context = 0;
	struct iocb cb = {.aio_lio_opcode = IOCB_CMD_POLL, .aio_fildes = s->a, .aio_buf = POLLIN}, *cbs[] = {&cb};
	ok(syscall(SYS_io_setup, 4, &context), "io_setup");
	ok(syscall(SYS_io_submit, context, 1, cbs), "io_submit");
	memcpy(s->data, &context, sizeof context);
}

static long do_io_getevents(struct subject *s, int ms) {
	struct io_event ev;
	struct timespec t = span(ms);
	return CALL6(SYS_io_getevents, *(aio_context_t *)s->data, 1, 1, &ev, ms < 0 ? NULL : &t, 0);
}

static long do_io_pgetevents(struct subject *s, int ms) {
	struct io_event ev;
	struct timespec t = span(ms);
	uint64_t none = 0;
	struct { uint64_t *set; size_t size; } mask = {&none, 8};
	return CALL6(SYS_io_pgetevents, *(aio_context_t *)s->data, 1, 1, &ev, ms < 0 ? NULL : &t, &mask);
}

const struct call poll_calls[] = {
	{"poll", TIMED | EVENT, make_pipe, NULL, do_poll, put_byte},
	{"ppoll", TIMED | EVENT, make_pipe, NULL, do_ppoll, put_byte},
	{"ppoll, timeout in read-only memory", TIMED | EVENT, make_pipe, NULL, do_ppoll_const, put_byte},
	{"select", TIMED | EVENT, make_pipe, NULL, do_select, put_byte},
	{"select without descriptors", TIMED, NULL, NULL, do_select_sleep, NULL},
	{"pselect6", TIMED | EVENT, make_pipe, NULL, do_pselect6, put_byte},
	{"epoll_wait", TIMED | EVENT, make_epoll, NULL, do_epoll_wait, put_byte},
	{"epoll_pwait", TIMED | EVENT, make_epoll, NULL, do_epoll_pwait, put_byte},
	{"epoll_pwait2", TIMED | EVENT, make_epoll, NULL, do_epoll_pwait2, put_byte},
	{"io_getevents", TIMED | EVENT, make_pipe, make_aio, do_io_getevents, put_byte},
	{"io_pgetevents", TIMED | EVENT, make_pipe, make_aio, do_io_pgetevents, put_byte},
	{0},
};
