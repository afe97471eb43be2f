// Calls on pipes, terminals and the descriptors that the kernel makes.
#include "stage.h"
#include <linux/seccomp.h>
#include <linux/filter.h>
#include <linux/userfaultfd.h>
#include <pty.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

static long positive(long r) { return r > 0 ? 1 : r; }

static long do_read(struct subject *s, int ms) { return positive(CALL(SYS_read, s->a, s->data, 128, 0)); }

static long do_readv(struct subject *s, int ms) {
	struct iovec v = {s->data, 128};
	return positive(CALL(SYS_readv, s->a, &v, 1, 0));
}

static long do_write(struct subject *s, int ms) { return CALL(SYS_write, s->b, "x", 1, 0); }

static long do_writev(struct subject *s, int ms) {
	struct iovec v = {"x", 1};
	return CALL(SYS_writev, s->b, &v, 1, 0);
}

static char block[8192];

// Half of what is written fits at once. A call that is interrupted then returns
// what it has written, and a program that is not prepared for it loses the rest.
static void make_roomy_pipe(struct subject *s) {
	make_pipe(s);
	fcntl(s->b, F_SETPIPE_SZ, 4096);
}

static long do_write_half(struct subject *s, int ms) { return CALL(SYS_write, s->b, block, 8192, 0); }

static void make_fifo(struct subject *s) { ok(mkfifo(s->path, 0600), "mkfifo"); }

static long do_open_read(struct subject *s, int ms) { return positive(CALL(SYS_open, s->path, O_RDONLY, 0, 0)); }

static long do_open_write(struct subject *s, int ms) { return positive(CALL(SYS_open, s->path, O_WRONLY, 0, 0)); }

static void open_both(struct subject *s) { s->b = open(s->path, O_RDWR | O_NONBLOCK); }

static void make_tty(struct subject *s) {
	ok(openpty(&s->b, &s->a, NULL, NULL, NULL), "openpty"); // a is the terminal, b what drives it
}

static void make_tty_master(struct subject *s) { ok(openpty(&s->a, &s->b, NULL, NULL, NULL), "openpty"); }

static void make_full_tty(struct subject *s) {
	make_tty_master(s);
	fill_up(s->b);
}

static void make_eventfd(struct subject *s) { s->a = s->b = eventfd(0, 0); }

static void post_eventfd(struct subject *s) {
	uint64_t one = 1;
	write(s->b, &one, 8);
}

static void make_full_eventfd(struct subject *s) {
	uint64_t most = UINT64_MAX - 1;
	make_eventfd(s);
	write(s->b, &most, 8);
}

static long do_write_eventfd(struct subject *s, int ms) {
	uint64_t one = 1;
	return CALL(SYS_write, s->b, &one, 8, 0);
}

static void make_timerfd(struct subject *s) { s->a = timerfd_create(CLOCK_MONOTONIC, 0); }

static void arm(int fd, struct timespec t) {
	struct itimerspec it = {.it_value = t};
	timerfd_settime(fd, 0, &it, NULL);
}

static void fire_timerfd(struct subject *s) { arm(s->a, (struct timespec){0, 1}); }

static long do_read_timerfd(struct subject *s, int ms) {
	if (ms >= 0) arm(s->a, span(ms));
	return do_read(s, ms);
}

static void make_inotify(struct subject *s) {
	ok(mkdir(s->path, 0700), "mkdir");
	s->a = inotify_init1(0);
	ok(inotify_add_watch(s->a, s->path, IN_CREATE), "inotify_add_watch");
}

static void create_file(struct subject *s) {
	char path[128];
	snprintf(path, sizeof path, "%s/x", s->path);
	close(open(path, O_CREAT | O_RDWR, 0600));
}

static void make_fanotify(struct subject *s) {
	ok(mkdir(s->path, 0700), "mkdir");
	s->a = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DIR_FID | FAN_REPORT_NAME, O_RDONLY);
	fanotify_mark(s->a, FAN_MARK_ADD, FAN_CREATE | FAN_EVENT_ON_CHILD, AT_FDCWD, s->path);
}

static void need_a(struct subject *s) {
	if (s->a < 0) _exit(1);
}

// The page that faults is the stage's when the subject reads the userfaultfd,
// and the subject's when it is the one that faults.
static char *register_page(int fd) {
	struct uffdio_api api = {.api = UFFD_API};
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg)) return NULL;
	return page;
}

static void make_userfaultfd(struct subject *s) {
	s->a = syscall(SYS_userfaultfd, 0);
	char *page = register_page(s->a);
	memcpy(s->data + 1024, &page, sizeof page);
}

static void *touch(void *page) {
	*(volatile char *)page = 1;
	return NULL;
}

static void fault(struct subject *s) {
	char *page;
	pthread_t t;
	memcpy(&page, s->data + 1024, sizeof page);
	pthread_create(&t, NULL, touch, page);
	pthread_detach(t);
}

static void make_own_userfaultfd(struct subject *s) {
	make_userfaultfd(s);
	need_a(s);
}

static long do_fault(struct subject *s, int ms) {
	char *page;
	memcpy(&page, s->data + 1024, sizeof page);
	return *(volatile char *)page;
}

static void resolve(struct subject *s) {
	uint64_t page;
	memcpy(&page, s->data + 1024, sizeof page);
	int pidfd = syscall(SYS_pidfd_open, s->pid, 0);
	int fd = syscall(SYS_pidfd_getfd, pidfd, s->a, 0);
	struct uffdio_zeropage zero = {.range = {page, 4096}};
	ioctl(fd, UFFDIO_ZEROPAGE, &zero);
	close(fd);
	close(pidfd);
}

// A helper whose getppid is reported to the subject.
static void make_notified(struct subject *s) {
	make_pipe(s);
	pid_t pid = ok(fork(), "fork");
	if (pid == 0) {
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog prog = {4, code};
		char byte;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		s->c = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
		s->ready = 2;
		read(s->a, &byte, 1);
		syscall(SYS_getppid);
		_exit(0);
	}
	s->helper = pid;
	while (s->ready != 2) usleep(100);
	s->ready = 0;
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	s->d = syscall(SYS_pidfd_getfd, pidfd, s->c, 0);
	close(pidfd);
}

static long do_seccomp_recv(struct subject *s, int ms) {
	memset(s->data, 0, 512);
	return CALL(SYS_ioctl, s->d, SECCOMP_IOCTL_NOTIF_RECV, s->data, 0);
}

const struct call file_calls[] = {
	{"read of a pipe", EVENT, make_pipe, NULL, do_read, put_byte},
	{"readv of a pipe", EVENT, make_pipe, NULL, do_readv, put_byte},
	{"write to a full pipe", EVENT, make_full_pipe, NULL, do_write, drain},
	{"writev to a full pipe", EVENT, make_full_pipe, NULL, do_writev, drain},
	{"write to a pipe, half of it done", EVENT, make_roomy_pipe, NULL, do_write_half, drain_slowly},
	{"open of a FIFO to read", EVENT, make_fifo, NULL, do_open_read, open_both},
	{"open of a FIFO to write", EVENT, make_fifo, NULL, do_open_write, open_both},
	{"read of a terminal", EVENT, make_tty, NULL, do_read, put_byte},
	{"read of a terminal's master", EVENT, make_tty_master, NULL, do_read, put_byte},
	{"write to a full terminal", EVENT, make_full_tty, NULL, do_write, drain_slowly},
	{"read of an eventfd", EVENT, make_eventfd, NULL, do_read, post_eventfd},
	{"write to a full eventfd", EVENT, make_full_eventfd, NULL, do_write_eventfd, drain},
	{"read of a timerfd", TIMED | EVENT, make_timerfd, NULL, do_read_timerfd, fire_timerfd},
	{"read of an inotify", EVENT, make_inotify, NULL, do_read, create_file},
	{"read of a fanotify", EVENT, make_fanotify, need_a, do_read, create_file},
	{"read of a userfaultfd", EVENT, make_userfaultfd, need_a, do_read, fault},
	{"page fault under a userfaultfd", EVENT, NULL, make_own_userfaultfd, do_fault, resolve},
	{"ioctl SECCOMP_IOCTL_NOTIF_RECV", EVENT, make_notified, NULL, do_seccomp_recv, put_byte},
	{0},
};
