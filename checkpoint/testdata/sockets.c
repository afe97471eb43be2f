// Sockets that a subject has, and looks at again; see subject.c.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

struct creds { pid_t pid; uid_t uid; gid_t gid; };

static socklen_t address(struct sockaddr_un *a, const char *name) {
	memset(a, 0, sizeof *a);
	a->sun_family = AF_UNIX;
	strcpy(a->sun_path, name);
	socklen_t n = offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1;
	if (name[0] == '@') a->sun_path[0] = 0, n--; // an abstract name
	return n;
}
static int named(int (*get)(int, struct sockaddr *, socklen_t *), int fd, const char *name) {
	struct sockaddr_un a, want;
	socklen_t n = sizeof a, m = address(&want, name);
	if (!*name) m = offsetof(struct sockaddr_un, sun_path);
	memset(&a, 0, sizeof a);
	return get(fd, (struct sockaddr *)&a, &n) == 0 && n == m && !memcmp(&a, &want, m);
}
static int sock(int type, const char *name) {
	int fd = socket(AF_UNIX, type, 0);
	struct sockaddr_un a;
	if (name) { socklen_t n = address(&a, name); CHECK(bind(fd, (struct sockaddr *)&a, n) == 0); }
	return fd;
}
static int to(int fd, const char *name) {
	struct sockaddr_un a;
	socklen_t n = address(&a, name);
	return connect(fd, (struct sockaddr *)&a, n);
}
static int gets_from(int fd, char *buf, int size, const char *name) {
	struct sockaddr_un a, want;
	socklen_t n = sizeof a, m = address(&want, name);
	int got = recvfrom(fd, buf, size, MSG_DONTWAIT, (struct sockaddr *)&a, &n);
	CHECK(n == (*name ? m : 0) && (!*name || !memcmp(&a, &want, m)));
	return got;
}
static int option(int fd, int level, int name) {
	int v = -1;
	socklen_t n = sizeof v;
	getsockopt(fd, level, name, &v, &n);
	return v;
}
static void setopt(int fd, int level, int name, int v) { CHECK(setsockopt(fd, level, name, &v, sizeof v) == 0); }
static struct creds peer(int fd) {
	struct creds c = {0};
	socklen_t n = sizeof c;
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) == 0);
	return c;
}
static int is(const char *got, int n, const char *want) { return n == (int)strlen(want) && !memcmp(got, want, n); }
static int events(int fd) { struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP, 0}; poll(&p, 1, 0); return p.revents; }

static void sockets(void) {
	signal(SIGPIPE, SIG_IGN);
	char buf[300000], abstract[64], abstract2[64], client_name[64];
	static char big[150000];
	snprintf(abstract, sizeof abstract, "@subject-%d", getpid());
	snprintf(abstract2, sizeof abstract2, "@subject-%d-client", getpid());
	strcpy(client_name, abstract2);
	memset(big, 'q', sizeof big);
	// A pair with data both ways, of which one end writes no more, and options.
	int a[2], b[2], c[2], d[2], e[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, a) == 0);
	setopt(a[0], SOL_SOCKET, SO_SNDBUF, 300000);
	CHECK(send(a[0], big, sizeof big, MSG_DONTWAIT) == sizeof big && write(a[0], "end", 3) == 3 && write(a[1], "back", 4) == 4);
	shutdown(a[0], SHUT_WR);
	setopt(a[1], SOL_SOCKET, SO_RCVBUF, 5000);
	struct timeval tv = {7, 0};
	setsockopt(a[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	fcntl(a[1], F_SETFL, O_NONBLOCK);
	int sndbuf = option(a[0], SOL_SOCKET, SO_SNDBUF), rcvbuf = option(a[1], SOL_SOCKET, SO_RCVBUF);
	// Packets keep their boundaries, and who sent them.
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, b) == 0);
	setopt(b[1], SOL_SOCKET, SO_PASSCRED, 1);
	int child = fork();
	if (child == 0) { CHECK(write(b[0], "one", 3) == 3 && write(b[0], "", 0) == 0 && write(b[0], big, 100000) == 100000); pause(); _exit(0); }
	for (int n = 0; n < 100003; ioctl(b[1], TIOCINQ, &n)) usleep(1000);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, c) == 0);
	CHECK(write(c[0], "x", 1) == 1 && write(c[0], "yy", 2) == 2);
	// Whose other end is closed, with data left, and with data that it never read.
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, d) == 0 && write(d[0], "rest", 4) == 4 && close(d[0]) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, e) == 0 && write(e[1], "lost", 4) == 4 && close(e[0]) == 0);
	// A server at a path, with a connection, one that waits, and a client of a name.
	umask(027);
	int listener = sock(SOCK_STREAM, "server"), client = sock(SOCK_STREAM, 0), waiting = sock(SOCK_STREAM, 0);
	CHECK(listen(listener, 7) == 0 && to(client, "server") == 0);
	int accepted = accept4(listener, 0, 0, SOCK_NONBLOCK);
	CHECK(accepted >= 0 && write(client, "request", 7) == 7 && to(waiting, "server") == 0);
	struct stat st0, st1;
	CHECK(stat("server", &st0) == 0);
	// An abstract one that does not listen any more.
	int second = sock(SOCK_SEQPACKET, abstract), client2 = sock(SOCK_SEQPACKET, abstract2);
	CHECK(listen(second, 3) == 0 && to(client2, abstract) == 0);
	int accepted2 = accept(second, 0, 0);
	CHECK(accepted2 >= 0 && close(second) == 0 && write(accepted2, "answer", 6) == 6);
	// One at a path that is gone, whose client it accepted and which was closed.
	int gone = sock(SOCK_STREAM, "gone"), client3 = sock(SOCK_STREAM, 0);
	CHECK(listen(gone, 1) == 0 && to(client3, "gone") == 0);
	int accepted3 = accept(gone, 0, 0);
	unlink("gone");
	CHECK(write(client3, "bye", 3) == 3 && close(client3) == 0);
	// Datagrams: from those with a name, from one without, to one at a path.
	char cwd[3000], path[4096];
	CHECK(getcwd(cwd, sizeof cwd) != 0);
	snprintf(path, sizeof path, "%s/inbox", cwd);
	int inbox = sock(SOCK_DGRAM, strlen(path) < 100 ? path : "inbox"), sender = sock(SOCK_DGRAM, "sender"), nameless = sock(SOCK_DGRAM, 0), other = sock(SOCK_DGRAM, strcat(abstract2, "x"));
	CHECK(to(other, "inbox") == 0);
	CHECK(to(sender, "inbox") == 0 && to(nameless, "inbox") == 0);
	CHECK(write(sender, "first", 5) == 5 && write(nameless, "second", 6) == 6 && write(sender, "third", 5) == 5 && write(other, "4", 1) == 1);
	int lone = sock(SOCK_STREAM, 0);
	int ep = epoll_create1(0);
	struct epoll_event ev = {EPOLLIN, {.u64 = 42}}, got;
	epoll_ctl(ep, EPOLL_CTL_ADD, client2, &ev);
	struct creds me = {getpid(), getuid(), getgid()}, p;
	ready();
	await();
	CHECK(recv(a[0], buf, sizeof buf, MSG_DONTWAIT) == 4 && !memcmp(buf, "back", 4));
	int n = 0, k;
	while ((k = read(a[1], buf + n, sizeof buf - n)) > 0) n += k;
	CHECK(k == 0 && n == sizeof big + 3 && !memcmp(buf, big, sizeof big) && !memcmp(buf + sizeof big, "end", 3));
	CHECK(write(a[0], "x", 1) == -1 && errno == EPIPE);
	CHECK(option(a[0], SOL_SOCKET, SO_SNDBUF) == sndbuf && option(a[1], SOL_SOCKET, SO_RCVBUF) == rcvbuf);
	socklen_t tvn = sizeof tv;
	tv.tv_sec = 0;
	CHECK(getsockopt(a[1], SOL_SOCKET, SO_RCVTIMEO, &tv, &tvn) == 0 && tv.tv_sec == 7);
	CHECK(fcntl(a[1], F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(a[0], F_GETFL) == O_RDWR);
	p = peer(a[0]);
	CHECK(!memcmp(&p, &me, sizeof p));
	CHECK(fcntl(b[0], F_GETFD) == FD_CLOEXEC && option(b[1], SOL_SOCKET, SO_TYPE) == SOCK_SEQPACKET);
	for (int i = 0; i < 3; i++) {
		char control[256];
		struct iovec io = {buf, sizeof buf};
		struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
		n = recvmsg(b[1], &m, MSG_DONTWAIT);
		int want[] = {3, 0, 100000};
		CHECK(n == want[i]);
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		CHECK(h && h->cmsg_type == SCM_CREDENTIALS && ((struct creds *)CMSG_DATA(h))->pid == child && ((struct creds *)CMSG_DATA(h))->uid == getuid());
	}
	kill(child, SIGKILL);
	CHECK(waitpid(child, 0, 0) == child);
	CHECK(recv(c[1], buf, 9, 0) == 1 && recv(c[1], buf, 9, 0) == 2 && recv(c[1], buf, 9, MSG_DONTWAIT) == -1);
	CHECK(write(c[1], "z", 1) == 1 && read(c[0], buf, 9) == 1);
	CHECK((events(d[1]) & (POLLHUP | POLLERR)) == POLLHUP && read(d[1], buf, 9) == 4 && read(d[1], buf, 9) == 0);
	CHECK(events(e[1]) & POLLERR && read(e[1], buf, 9) == -1 && errno == ECONNRESET && read(e[1], buf, 9) == 0);
	CHECK(named(getsockname, accepted, "server") && named(getpeername, client, "server") && named(getsockname, client, "") && named(getpeername, accepted, ""));
	p = peer(client);
	CHECK(!memcmp(&p, &me, sizeof p));
	p = peer(accepted);
	CHECK(!memcmp(&p, &me, sizeof p));
	CHECK(fcntl(accepted, F_GETFL) == (O_RDWR | O_NONBLOCK) && read(accepted, buf, 9) == 7 && write(accepted, "ok", 2) == 2 && read(client, buf, 9) == 2);
	CHECK(stat("server", &st1) == 0 && st0.st_mode == st1.st_mode && S_ISSOCK(st1.st_mode));
	int late = accept(listener, 0, 0), fresh = sock(SOCK_STREAM, 0);
	CHECK(late >= 0 && write(waiting, "w", 1) == 1 && read(late, buf, 9) == 1);
	CHECK(to(fresh, "server") == 0 && accept(listener, 0, 0) >= 0);
	CHECK(epoll_wait(ep, &got, 1, 0) == 1 && got.data.u64 == 42);
	CHECK(read(client2, buf, 9) == 6 && named(getsockname, accepted2, abstract) && named(getpeername, accepted2, client_name) && named(getsockname, client2, client_name));
	CHECK(write(client2, "q", 1) == 1 && read(accepted2, buf, 9) == 1);
	int rebound = sock(SOCK_SEQPACKET, abstract);
	CHECK(close(rebound) == 0);
	CHECK(named(getsockname, accepted3, "gone") && read(accepted3, buf, 9) == 3 && read(accepted3, buf, 9) == 0 && named(getsockname, gone, "gone"));
	CHECK(stat("gone", &st1) == -1 && option(gone, SOL_SOCKET, SO_ACCEPTCONN) == 1);
	CHECK(is(buf, gets_from(inbox, buf, 99, "sender"), "first") && is(buf, gets_from(inbox, buf, 99, ""), "second") && is(buf, gets_from(inbox, buf, 99, "sender"), "third") && is(buf, gets_from(inbox, buf, 99, abstract2), "4"));
	CHECK(write(nameless, "more", 4) == 4 && is(buf, recv(inbox, buf, 99, 0), "more"));
	CHECK(to(lone, "server") == 0);
}

static struct sockaddr_in loopback(int port) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	return a;
}
static int port_of(int fd) {
	struct sockaddr_in6 a;
	socklen_t n = sizeof a;
	CHECK(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
	return ntohs(a.sin6_port);
}
static int at(int type, int port) {
	int fd = socket(AF_INET, type, 0);
	struct sockaddr_in a = loopback(port);
	CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
	return fd;
}
static int reach(int fd, int port) {
	struct sockaddr_in a = loopback(port);
	return connect(fd, (struct sockaddr *)&a, sizeof a);
}

static void internet(void) {
	char buf[70000];
	// Servers without connections, with the options that servers have.
	int l = at(SOCK_STREAM, 0), l6 = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), shared = socket(AF_INET, SOCK_STREAM, 0), shared2 = socket(AF_INET, SOCK_STREAM, 0);
	setopt(l, SOL_SOCKET, SO_REUSEADDR, 1);
	setopt(l, SOL_SOCKET, SO_KEEPALIVE, 1);
	setopt(l, IPPROTO_TCP, TCP_NODELAY, 1);
	setopt(l, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	setopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
	setopt(l, SOL_SOCKET, SO_RCVBUF, 50000);
	int deferred = option(l, IPPROTO_TCP, TCP_DEFER_ACCEPT);
	setsockopt(l, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	CHECK(listen(l, 17) == 0);
	setopt(l6, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	struct sockaddr_in6 any = {.sin6_family = AF_INET6};
	CHECK(bind(l6, (struct sockaddr *)&any, sizeof any) == 0 && listen(l6, 3) == 0);
	setopt(shared, SOL_SOCKET, SO_REUSEPORT, 1);
	setopt(shared2, SOL_SOCKET, SO_REUSEPORT, 1);
	struct sockaddr_in a = loopback(0);
	CHECK(bind(shared, (struct sockaddr *)&a, sizeof a) == 0);
	a = loopback(port_of(shared));
	CHECK(bind(shared2, (struct sockaddr *)&a, sizeof a) == 0 && listen(shared, 1) == 0 && listen(shared2, 1) == 0);
	int bound = at(SOCK_STREAM, 0), fresh = socket(AF_INET6, SOCK_STREAM, 0);
	// Datagrams from a named sender and from one that is bound to all addresses.
	int u = at(SOCK_DGRAM, 0), v = at(SOCK_DGRAM, 0), w = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	setopt(u, IPPROTO_IP, IP_TTL, 9);
	setopt(u, SOL_SOCKET, SO_BROADCAST, 1);
	CHECK(reach(v, port_of(u)) == 0);
	a = loopback(port_of(u));
	memset(buf, 'd', sizeof buf);
	CHECK(write(v, "one", 3) == 3 && sendto(w, "two", 3, 0, (struct sockaddr *)&a, sizeof a) == 3 && write(v, "", 0) == 0 && write(v, buf, 60000) == 60000);
	int ports[] = {port_of(l), port_of(l6), port_of(shared), port_of(bound), port_of(u), port_of(v), port_of(w)};
	ready();
	await();
	CHECK(port_of(l) == ports[0] && port_of(l6) == ports[1] && port_of(shared) == ports[2] && port_of(shared2) == ports[2] && port_of(bound) == ports[3]);
	CHECK(option(l, SOL_SOCKET, SO_REUSEADDR) == 1 && option(bound, SOL_SOCKET, SO_REUSEADDR) == 0 && option(l, SOL_SOCKET, SO_KEEPALIVE) == 1);
	CHECK(option(l, IPPROTO_TCP, TCP_NODELAY) == 1 && option(l, IPPROTO_TCP, TCP_KEEPIDLE) == 77 && option(l, IPPROTO_TCP, TCP_DEFER_ACCEPT) == deferred);
	CHECK(option(l6, IPPROTO_IPV6, IPV6_V6ONLY) == 1 && fcntl(l6, F_GETFL) == (O_RDWR | O_NONBLOCK) && option(l, SOL_SOCKET, SO_RCVBUF) == 100000);
	CHECK(option(l, SOL_SOCKET, SO_ACCEPTCONN) == 1 && option(bound, SOL_SOCKET, SO_ACCEPTCONN) == 0);
	struct tcp_info info;
	socklen_t n = sizeof info;
	CHECK(getsockopt(l, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 && info.tcpi_sacked == 17);
	char name[16] = "";
	n = sizeof name;
	CHECK(getsockopt(l, IPPROTO_TCP, TCP_CONGESTION, name, &n) == 0 && !strcmp(name, "reno"));
	int c = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(reach(c, ports[0]) == 0 && write(c, "x", 1) == 1);
	int s = accept(l, 0, 0);
	CHECK(s >= 0 && read(s, buf, 9) == 1);
	CHECK(reach(fresh, ports[0]) == -1 && listen(bound, 1) == 0);
	int c2 = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(reach(c2, ports[3]) == 0);
	struct sockaddr_in from;
	for (int i = 0; i < 4; i++) {
		int want[] = {3, 3, 0, 60000}, of[] = {5, 6, 5, 5};
		n = sizeof from;
		int got = recvfrom(u, buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &n);
		CHECK(got == want[i] && ntohs(from.sin_port) == ports[of[i]] && from.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
	}
	CHECK(recv(u, buf, 9, MSG_DONTWAIT) == -1 && option(u, IPPROTO_IP, IP_TTL) == 9 && option(u, SOL_SOCKET, SO_BROADCAST) == 1);
	CHECK(write(v, "more", 4) == 4 && recv(u, buf, 9, 0) == 4 && port_of(w) == ports[6] && fcntl(w, F_GETFD) == FD_CLOEXEC);
	a = loopback(ports[5]);
	CHECK(sendto(w, "no", 2, 0, (struct sockaddr *)&a, sizeof a) == 2 && recv(v, buf, 9, MSG_DONTWAIT) == -1); // v is connected to u
}

static int call(int port) {
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(reach(fd, port) == 0);
	return fd;
}
static int calls(int listener, int *server) {
	int fd = call(port_of(listener));
	*server = accept(listener, 0, 0);
	CHECK(*server >= 0);
	return fd;
}
static int peer_port(int fd) {
	struct sockaddr_in a;
	socklen_t n = sizeof a;
	return getpeername(fd, (struct sockaddr *)&a, &n) == 0 ? ntohs(a.sin_port) : -1;
}

static void connections(void) {
	signal(SIGPIPE, SIG_IGN);
	static char big[400000], buf[500000];
	for (unsigned i = 0; i < sizeof big; i++) big[i] = i * 7 + i / 1000;
	int l = socket(AF_INET6, SOCK_STREAM, 0); // which gets calls by IPv4, too
	setopt(l, SOL_SOCKET, SO_REUSEADDR, 1);
	struct sockaddr_in6 any = {.sin6_family = AF_INET6};
	CHECK(bind(l, (struct sockaddr *)&any, sizeof any) == 0 && listen(l, 5) == 0);
	int s[6], c[6];
	// Both ways, with data.
	c[0] = calls(l, &s[0]);
	setopt(c[0], IPPROTO_TCP, TCP_NODELAY, 1);
	fcntl(s[0], F_SETFL, O_NONBLOCK);
	CHECK(write(c[0], big, 100000) == 100000 && write(s[0], "reply", 5) == 5);
	// Whose caller writes no more.
	c[1] = calls(l, &s[1]);
	CHECK(write(c[1], "last", 4) == 4 && shutdown(c[1], SHUT_WR) == 0);
	// Whose server has closed, and whose caller has closed, with data left.
	c[2] = calls(l, &s[2]);
	CHECK(write(s[2], "bye", 3) == 3 && close(s[2]) == 0);
	c[3] = calls(l, &s[3]);
	CHECK(write(c[3], "gone", 4) == 4 && close(c[3]) == 0);
	// Which was reset, and which ended well.
	c[4] = calls(l, &s[4]);
	struct linger hard = {1, 0};
	CHECK(write(s[4], "left", 4) == 4 && setsockopt(s[4], SOL_SOCKET, SO_LINGER, &hard, sizeof hard) == 0);
	usleep(1000);
	CHECK(close(s[4]) == 0);
	c[5] = calls(l, &s[5]);
	CHECK(write(c[5], "done", 4) == 4 && shutdown(c[5], SHUT_WR) == 0 && shutdown(s[5], SHUT_WR) == 0);
	int ports[] = {port_of(c[0]), port_of(s[0]), port_of(c[2])};
	ready();
	await();
	CHECK(port_of(c[0]) == ports[0] && port_of(s[0]) == ports[1] && peer_port(c[0]) == ports[1] && peer_port(s[0]) == ports[0] && port_of(l) == ports[1]);
	CHECK(option(c[0], IPPROTO_TCP, TCP_NODELAY) == 1 && option(s[0], IPPROTO_TCP, TCP_NODELAY) == 0 && fcntl(s[0], F_GETFL) == (O_RDWR | O_NONBLOCK));
	CHECK(option(s[0], SOL_SOCKET, SO_REUSEADDR) == 1 && option(c[0], SOL_SOCKET, SO_REUSEADDR) == 0);
	CHECK(recv(s[0], buf, 100000, 0) == 100000 && !memcmp(buf, big, 100000) && recv(s[0], buf, 9, 0) == -1 && errno == EAGAIN);
	CHECK(recv(c[0], buf, 9, 0) == 5 && !memcmp(buf, "reply", 5) && recv(c[0], buf, 9, MSG_DONTWAIT) == -1);
	CHECK(write(s[0], "more", 4) == 4 && recv(c[0], buf, 9, 0) == 4 && close(c[0]) == 0);
	CHECK((events(s[0]) & POLLRDHUP) && recv(s[0], buf, 9, 0) == 0);
	CHECK(recv(s[1], buf, 9, 0) == 4 && recv(s[1], buf, 9, 0) == 0 && write(c[1], "x", 1) == -1 && errno == EPIPE);
	CHECK(write(s[1], "back", 4) == 4 && recv(c[1], buf, 9, 0) == 4);
	CHECK(peer_port(c[2]) == ports[1] && port_of(c[2]) == ports[2] && recv(c[2], buf, 9, 0) == 3 && recv(c[2], buf, 9, 0) == 0);
	CHECK(recv(s[3], buf, 9, 0) == 4 && recv(s[3], buf, 9, 0) == 0);
	CHECK((events(c[4]) & (POLLERR | POLLHUP)) == (POLLERR | POLLHUP) && recv(c[4], buf, 9, 0) == 4 && recv(c[4], buf, 9, 0) == -1 && errno == ECONNRESET && recv(c[4], buf, 9, 0) == 0);
	CHECK((events(s[5]) & (POLLERR | POLLHUP)) == POLLHUP && recv(s[5], buf, 9, 0) == 4 && recv(s[5], buf, 9, 0) == 0 && recv(c[5], buf, 9, 0) == 0);
	CHECK(write(c[5], "x", 1) == -1 && errno == EPIPE);
	int fresh = calls(l, &s[0]);
	CHECK(write(fresh, "new", 3) == 3 && recv(s[0], buf, 9, 0) == 3);
}
