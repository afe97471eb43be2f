// inotify, and signals of open files.
#include <sys/inotify.h>

static volatile int io_fd, io_band, io_code;
static void on_io(int s, siginfo_t *i, void *u) {
	(void)s; (void)u;
	io_fd = i->si_fd;
	io_band = i->si_band;
	io_code = i->si_code;
}
// event reads one event.
static struct inotify_event *event(int fd) {
	static char buf[4096] __attribute__((aligned(8)));
	return read(fd, buf, sizeof buf) > 0 ? (struct inotify_event *)buf : 0;
}

static void watches(void) {
	CHECK(mkdir("d", 0700) == 0 && mkdir("e", 0700) == 0 && symlink("d", "link") == 0);
	int f = open("f", O_RDWR | O_CREAT, 0600);
	int n = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	CHECK(inotify_add_watch(n, "e", IN_CREATE) == 1 && inotify_add_watch(n, "d", IN_CREATE | IN_DELETE | IN_ONLYDIR) == 2 && inotify_rm_watch(n, 1) == 0);
	CHECK(event(n)->mask == IN_IGNORED);
	CHECK(inotify_add_watch(n, "f", IN_MODIFY | IN_ONESHOT) == 3 && inotify_add_watch(n, "link", IN_ATTRIB | IN_DONT_FOLLOW) == 4);
	int all = inotify_init1(IN_NONBLOCK);
	CHECK(inotify_add_watch(all, "e", IN_ALL_EVENTS) == 1);
	while (event(all));
	int p[2], q[2];
	CHECK(pipe2(p, O_NONBLOCK) == 0 && pipe2(q, O_NONBLOCK) == 0);
	struct sigaction a = {.sa_sigaction = on_io, .sa_flags = SA_SIGINFO};
	sigaction(SIGRTMIN + 5, &a, 0);
	struct f_owner_ex o = {F_OWNER_TID, gettid()};
	fcntl(p[0], F_SETOWN_EX, &o);
	fcntl(p[0], F_SETSIG, SIGRTMIN + 5);
	fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK);
	int child = fork();
	if (child == 0) {
		while (io_fd != q[0]) sigsuspend(&(sigset_t){0});
		_exit(failures);
	}
	fcntl(q[0], F_SETOWN, child);
	fcntl(q[0], F_SETSIG, SIGRTMIN + 5);
	fcntl(q[0], F_SETFL, O_ASYNC | O_NONBLOCK);
	ready();
	await();
	CHECK(!event(n) && errno == EAGAIN && !event(all) && errno == EAGAIN && fcntl(n, F_GETFD) == FD_CLOEXEC);
	close(open("d/new", O_CREAT | O_RDWR, 0600));
	close(open("e/new", O_CREAT | O_RDWR, 0600));
	struct inotify_event *e = event(n);
	CHECK(e && e->wd == 2 && e->mask == IN_CREATE && !strcmp(e->name, "new") && !event(n));
	CHECK(write(f, "x", 1) == 1 && (e = event(n)) && e->wd == 3 && e->mask == IN_MODIFY);
	CHECK(write(f, "x", 1) == 1 && !event(n));
	CHECK((e = event(all)) && e->wd == 1);
	CHECK(lchown("link", 0, 0) == 0 && (e = event(n)) && e->wd == 4);
	CHECK(inotify_rm_watch(n, 2) == 0 && inotify_add_watch(n, "e", IN_CREATE) == 5);
	o.pid = 0;
	CHECK(fcntl(p[0], F_GETOWN_EX, &o) == 0 && o.type == F_OWNER_TID && o.pid == gettid() && fcntl(p[0], F_GETSIG) == SIGRTMIN + 5);
	CHECK(io_fd == 0 && write(p[1], "x", 1) == 1 && io_fd == p[0] && io_code == POLL_IN && fcntl(p[0], F_GETFL) & O_ASYNC);
	CHECK(write(q[1], "x", 1) == 1);
	int st;
	CHECK(waitpid(child, &st, 0) == child && st == 0);
}
