// Calls that move data between descriptors, and io_uring.
#include "stage.h"
#include <linux/io_uring.h>
#include <sys/uio.h>

static void make_two_pipes(struct subject *s) {
	int p[2];
	make_pipe(s);
	ok(pipe(p), "pipe");
	s->c = p[0], s->d = p[1];
}

static long some(long r) { return r > 0 ? 1 : r; }

static long do_splice(struct subject *s, int ms) { return some(CALL6(SYS_splice, s->a, NULL, s->d, NULL, 4096, 0)); }

static long do_tee(struct subject *s, int ms) { return some(CALL(SYS_tee, s->a, s->d, 4096, 0)); }

static long do_vmsplice(struct subject *s, int ms) {
	struct iovec v = {s->data, 1};
	return some(CALL(SYS_vmsplice, s->b, &v, 1, 0));
}

static void make_sendfile(struct subject *s) {
	make_full_pipe(s);
	s->c = ok(open("/proc/self/exe", O_RDONLY), "open");
}

static void make_sendfile_socket(struct subject *s) {
	int p[2];
	ok(socketpair(AF_UNIX, SOCK_STREAM, 0, p), "socketpair");
	s->a = p[0], s->b = p[1];
	fill(s->b);
	s->c = ok(open("/proc/self/exe", O_RDONLY), "open");
}

static long do_sendfile(struct subject *s, int ms) { return some(CALL(SYS_sendfile, s->b, s->c, NULL, 16)); }

static long do_sendfile_timeo(struct subject *s, int ms) {
	struct timeval t = {ms / 1000, ms % 1000 * 1000};
	if (ms >= 0) setsockopt(s->b, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
	return do_sendfile(s, ms);
}

// A ring whose memory the subject maps: s->a is the pipe to watch, s->c the ring.
struct ring {
	struct io_uring_params p;
	char *sq;
	struct io_uring_sqe *sqes;
};

static struct ring ring;

static void make_ring(struct subject *s) {
	s->c = ok(syscall(SYS_io_uring_setup, 4, &ring.p), "io_uring_setup");
	size_t size = ring.p.cq_off.cqes + ring.p.cq_entries * sizeof(struct io_uring_cqe);
	ring.sq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, s->c, IORING_OFF_SQ_RING);
	ring.sqes = mmap(NULL, 4 * sizeof *ring.sqes, PROT_READ | PROT_WRITE, MAP_SHARED, s->c, IORING_OFF_SQES);
	if (ring.sq == MAP_FAILED || ring.sqes == MAP_FAILED) die("mmap of a ring");
}

static void queue(struct io_uring_sqe sqe) {
	unsigned *tail = (unsigned *)(ring.sq + ring.p.sq_off.tail);
	unsigned *array = (unsigned *)(ring.sq + ring.p.sq_off.array);
	unsigned i = *tail & (ring.p.sq_entries - 1);
	ring.sqes[i] = sqe;
	array[i] = i;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
}

static void queue_poll(struct subject *s) {
	queue((struct io_uring_sqe){.opcode = IORING_OP_POLL_ADD, .fd = s->a, .poll32_events = POLLIN});
}

static void make_polling_ring(struct subject *s) {
	make_ring(s);
	queue_poll(s);
	syscall(SYS_io_uring_enter, s->c, 1, 0, 0, NULL, 0);
}

static long completed(long r) {
	unsigned head = *(unsigned *)(ring.sq + ring.p.cq_off.head), tail = *(unsigned *)(ring.sq + ring.p.cq_off.tail);
	return r >= 0 ? r * 10 + (tail != head) : r; // what it says, and whether there is what it waited for
}

static long do_enter(struct subject *s, int ms) {
	return completed(CALL6(SYS_io_uring_enter, s->c, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0));
}

static long do_enter_timeout(struct subject *s, int ms) {
	struct __kernel_timespec t = {ms / 1000, ms % 1000 * 1000000LL};
	struct io_uring_getevents_arg arg = {.ts = ms < 0 ? 0 : (uintptr_t)&t};
	return completed(CALL6(SYS_io_uring_enter, s->c, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof arg));
}

static long do_enter_submit(struct subject *s, int ms) {
	queue_poll(s);
	return completed(CALL6(SYS_io_uring_enter, s->c, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
}

static long do_enter_op_timeout(struct subject *s, int ms) {
	struct __kernel_timespec t = {ms / 1000, ms % 1000 * 1000000LL};
	if (ms >= 0) {
		queue((struct io_uring_sqe){.opcode = IORING_OP_TIMEOUT, .addr = (uintptr_t)&t, .len = 1});
		syscall(SYS_io_uring_enter, s->c, 1, 0, 0, NULL, 0);
	}
	return do_enter(s, ms);
}

const struct call transfer_calls[] = {
	{"splice from a pipe", EVENT, make_two_pipes, NULL, do_splice, put_byte},
	{"tee", EVENT, make_two_pipes, NULL, do_tee, put_byte},
	{"vmsplice to a full pipe", EVENT, make_full_pipe, NULL, do_vmsplice, drain},
	{"sendfile to a full pipe", EVENT, make_sendfile, NULL, do_sendfile, drain},
	{"sendfile to a socket, SO_SNDTIMEO", TIMED | EVENT, make_sendfile_socket, NULL, do_sendfile_timeo, drain},
	{"io_uring_enter", EVENT, make_pipe, make_polling_ring, do_enter, put_byte},
	{"io_uring_enter with a timeout", TIMED | EVENT, make_pipe, make_polling_ring, do_enter_timeout, put_byte},
	{"io_uring_enter for IORING_OP_TIMEOUT", TIMED | EVENT, make_pipe, make_polling_ring, do_enter_op_timeout, put_byte},
	{"io_uring_enter that also submits", EVENT, make_pipe, make_ring, do_enter_submit, put_byte},
	{0},
};
