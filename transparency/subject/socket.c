// Calls on sockets, with and without SO_RCVTIMEO and SO_SNDTIMEO.
#include "stage.h"
#include <netinet/in.h>
#include <sys/un.h>

static void set_timeout(int fd, int option, int ms) {
	struct timeval t = {ms / 1000, ms % 1000 * 1000};
	if (ms >= 0) setsockopt(fd, SOL_SOCKET, option, &t, sizeof t);
}

static void make_stream(struct subject *s) {
	int p[2];
	ok(socketpair(AF_UNIX, SOCK_STREAM, 0, p), "socketpair");
	s->a = p[0], s->b = p[1];
}

static void make_datagram(struct subject *s) {
	int p[2];
	ok(socketpair(AF_UNIX, SOCK_DGRAM, 0, p), "socketpair");
	s->a = p[0], s->b = p[1];
}

static void make_full_stream(struct subject *s) {
	make_stream(s);
	fill(s->b);
}

static void make_full_datagram(struct subject *s) {
	make_datagram(s);
	fill(s->b);
}

static int listener(struct sockaddr_in *addr, int backlog) {
	socklen_t len = sizeof *addr;
	int fd = ok(socket(AF_INET, SOCK_STREAM, 0), "socket");
	*addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	ok(bind(fd, (struct sockaddr *)addr, sizeof *addr), "bind");
	ok(listen(fd, backlog), "listen");
	getsockname(fd, (struct sockaddr *)addr, &len);
	return fd;
}

static void make_tcp(struct subject *s) {
	struct sockaddr_in addr;
	int l = listener(&addr, 1);
	s->b = ok(socket(AF_INET, SOCK_STREAM, 0), "socket");
	ok(connect(s->b, (struct sockaddr *)&addr, sizeof addr), "connect");
	s->a = ok(accept(l, NULL, NULL), "accept");
	close(l);
}

static void make_full_tcp(struct subject *s) {
	make_tcp(s);
	fill_up(s->b);
}

static void make_udp(struct subject *s) {
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	s->a = ok(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	ok(bind(s->a, (struct sockaddr *)&addr, len), "bind");
	getsockname(s->a, (struct sockaddr *)&addr, &len);
	s->b = ok(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	ok(connect(s->b, (struct sockaddr *)&addr, sizeof addr), "connect");
}

static long do_recvfrom(struct subject *s, int ms) { return CALL6(SYS_recvfrom, s->a, s->data, 128, 0, NULL, NULL); }

static long do_recvmsg(struct subject *s, int ms) {
	struct iovec v = {s->data, 128};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	return CALL(SYS_recvmsg, s->a, &m, 0, 0);
}

static long do_recvmmsg(struct subject *s, int ms) {
	struct iovec v = {s->data, 128};
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};
	return CALL6(SYS_recvmmsg, s->a, &m, 1, 0, NULL, 0);
}

static long do_sendto(struct subject *s, int ms) { return CALL6(SYS_sendto, s->b, "x", 1, MSG_NOSIGNAL, NULL, 0); }

static long do_sendmsg(struct subject *s, int ms) {
	struct iovec v = {"x", 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	return CALL(SYS_sendmsg, s->b, &m, MSG_NOSIGNAL, 0);
}

static long do_sendmmsg(struct subject *s, int ms) {
	struct iovec v = {"x", 1};
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};
	return CALL(SYS_sendmmsg, s->b, &m, 1, MSG_NOSIGNAL);
}

static long do_recv_timeo(struct subject *s, int ms) {
	set_timeout(s->a, SO_RCVTIMEO, ms);
	return do_recvfrom(s, ms);
}

static long do_recvmsg_timeo(struct subject *s, int ms) {
	set_timeout(s->a, SO_RCVTIMEO, ms);
	return do_recvmsg(s, ms);
}

static long do_recvmmsg_timeo(struct subject *s, int ms) {
	set_timeout(s->a, SO_RCVTIMEO, ms);
	return do_recvmmsg(s, ms);
}

static long do_read_timeo(struct subject *s, int ms) {
	set_timeout(s->a, SO_RCVTIMEO, ms);
	return CALL(SYS_read, s->a, s->data, 128, 0);
}

static long do_send_timeo(struct subject *s, int ms) {
	set_timeout(s->b, SO_SNDTIMEO, ms);
	return do_sendto(s, ms);
}

static long do_sendmsg_timeo(struct subject *s, int ms) {
	set_timeout(s->b, SO_SNDTIMEO, ms);
	return do_sendmsg(s, ms);
}

static long do_write_timeo(struct subject *s, int ms) {
	set_timeout(s->b, SO_SNDTIMEO, ms);
	return CALL(SYS_write, s->b, "x", 1, 0);
}

static void make_listener(struct subject *s) {
	struct sockaddr_in addr;
	s->a = listener(&addr, 8);
	s->c = ntohs(addr.sin_port);
}

static void connect_once(struct subject *s) {
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(s->c)};
	s->d = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	connect(s->d, (struct sockaddr *)&addr, sizeof addr);
}

static long accepted(long r) { return r > 0 ? 1 : r; }

static long do_accept(struct subject *s, int ms) { return accepted(CALL(SYS_accept, s->a, NULL, NULL, 0)); }

static long do_accept4(struct subject *s, int ms) { return accepted(CALL(SYS_accept4, s->a, NULL, NULL, SOCK_CLOEXEC)); }

static long do_accept_timeo(struct subject *s, int ms) {
	set_timeout(s->a, SO_RCVTIMEO, ms);
	return do_accept(s, ms);
}

// A listener whose queue is full: TCP's first packet is dropped and sent again
// after a second; a Unix connect waits for the queue.
static void make_full_listener(struct subject *s) {
	struct sockaddr_in addr;
	s->a = listener(&addr, 0);
	s->c = ntohs(addr.sin_port);
	connect_once(s);
	usleep(1000);
}

static long do_connect_tcp(struct subject *s, int ms) {
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(s->c)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	set_timeout(fd, SO_SNDTIMEO, ms);
	return CALL(SYS_connect, fd, &addr, sizeof addr, 0);
}

static struct sockaddr_un unix_address(struct subject *s) {
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof addr.sun_path, "%s", s->path);
	return addr;
}

static void make_full_unix_listener(struct subject *s) {
	struct sockaddr_un addr = unix_address(s);
	s->a = ok(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	ok(bind(s->a, (struct sockaddr *)&addr, sizeof addr), "bind");
	ok(listen(s->a, 0), "listen");
	s->d = socket(AF_UNIX, SOCK_STREAM, 0);
	ok(connect(s->d, (struct sockaddr *)&addr, sizeof addr), "connect");
}

static void accept_once(struct subject *s) {
	fcntl(s->a, F_SETFL, O_NONBLOCK);
	close(accept(s->a, NULL, NULL));
}

static long do_connect_unix(struct subject *s, int ms) {
	struct sockaddr_un addr = unix_address(s);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	set_timeout(fd, SO_SNDTIMEO, ms);
	return CALL(SYS_connect, fd, &addr, sizeof addr, 0);
}

// Three bytes are wanted, one is there: an interrupted call returns that one.
static void make_started_tcp(struct subject *s) {
	make_tcp(s);
	write(s->b, "x", 1);
}

static long do_recv_all(struct subject *s, int ms) { return CALL6(SYS_recvfrom, s->a, s->data, 3, MSG_WAITALL, NULL, NULL); }

// The linger is the last closer's, so the socket is the subject's own.
static long do_close_linger(struct subject *s, int ms) {
	struct linger l = {1, (ms + 999) / 1000};
	setsockopt(s->b, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	return CALL(SYS_close, s->b, 0, 0, 0);
}

const struct call socket_calls[] = {
	{"recv", EVENT, make_stream, NULL, do_recvfrom, put_byte},
	{"recv of a datagram", EVENT, make_datagram, NULL, do_recvfrom, put_byte},
	{"recvmsg", EVENT, make_tcp, NULL, do_recvmsg, put_byte},
	{"recvmmsg", EVENT, make_udp, NULL, do_recvmmsg, put_byte},
	{"send", EVENT, make_full_stream, NULL, do_sendto, drain},
	{"sendmsg", EVENT, make_full_datagram, NULL, do_sendmsg, drain},
	{"sendmmsg", EVENT, make_full_stream, NULL, do_sendmmsg, drain},
	{"accept", EVENT, make_listener, NULL, do_accept, connect_once},
	{"accept4", EVENT, make_listener, NULL, do_accept4, connect_once},
	{"recv, SO_RCVTIMEO", TIMED | EVENT, make_stream, NULL, do_recv_timeo, put_byte},
	{"recvmsg, SO_RCVTIMEO", TIMED | EVENT, make_tcp, NULL, do_recvmsg_timeo, put_byte},
	{"recvmmsg, SO_RCVTIMEO", TIMED | EVENT, make_udp, NULL, do_recvmmsg_timeo, put_byte},
	{"read of a socket, SO_RCVTIMEO", TIMED | EVENT, make_tcp, NULL, do_read_timeo, put_byte},
	{"accept, SO_RCVTIMEO", TIMED | EVENT, make_listener, NULL, do_accept_timeo, connect_once},
	{"send, SO_SNDTIMEO", TIMED | EVENT, make_full_stream, NULL, do_send_timeo, drain},
	{"sendmsg, SO_SNDTIMEO", TIMED | EVENT, make_full_datagram, NULL, do_sendmsg_timeo, drain},
	{"write to a socket, SO_SNDTIMEO", TIMED | EVENT, make_full_stream, NULL, do_write_timeo, drain},
	{"connect, TCP, SO_SNDTIMEO", TIMED | EVENT | SLOW, make_full_listener, NULL, do_connect_tcp, accept_once},
	{"connect, Unix, SO_SNDTIMEO", TIMED | EVENT, make_full_unix_listener, NULL, do_connect_unix, accept_once},
	{"recv, MSG_WAITALL, some of it there", EVENT, make_started_tcp, NULL, do_recv_all, put_byte},
	{"close, SO_LINGER", TIMED, NULL, make_full_tcp, do_close_linger, NULL},
	{0},
};
