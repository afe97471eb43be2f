// Terminals that belong to a subject; see subject.c.
#include <termios.h>

static void on_int(int s) { (void)s; go = 1; }
static int master(int flags, int unlock, char *name) {
	int fd = posix_openpt(O_RDWR | O_NOCTTY | flags);
	grantpt(fd);
	if (unlock) unlockpt(fd);
	strcpy(name, ptsname(fd));
	return fd;
}
static int answer(int fd, const char *want) {
	char buf[100];
	int n = 0, k, m = strlen(want);
	while (n < m && (k = read(fd, buf + n, m - n)) > 0) n += k;
	return n == m && !memcmp(buf, want, m);
}

// foreground is a process group in the foreground of its session's terminal.
static void foreground(const char *name, int tty, struct termios *want) {
	sigset_t none;
	sigemptyset(&none);
	signal(SIGINT, on_int);
	sigfillset(&none);
	sigdelset(&none, SIGINT);
	while (!go) sigsuspend(&none);
	struct winsize w;
	struct termios t;
	struct stat st, st2;
	memset(&t, 0, sizeof t);
	CHECK(isatty(0) && !strcmp(ttyname(0), name) && !strcmp(ctermid(0), "/dev/tty"));
	CHECK(tcgetpgrp(0) == getpgrp() && getpgrp() == getpid() && tcgetsid(0) == getsid(0) && getsid(0) == getppid());
	CHECK(ioctl(0, TIOCGWINSZ, &w) == 0 && w.ws_row == 33 && w.ws_col == 77 && w.ws_xpixel == 5);
	CHECK(tcgetattr(0, &t) == 0 && !memcmp(&t, want, sizeof t));
	CHECK(fstat(tty, &st) == 0 && st.st_rdev == 0x500 && fstat(0, &st2) == 0 && (st2.st_mode & 07777) == 0622);
	CHECK((fcntl(20, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDWR | O_NONBLOCK) && !(fcntl(0, F_GETFL) & O_NONBLOCK));
	int again = open("/dev/tty", O_RDWR);
	CHECK(write(again, "ok", 2) == 2);
	char line[10];
	CHECK(read(0, line, 10) == 3 && !memcmp(line, "yz\n", 3)); // by whole lines
	_exit(failures);
}

static void terminals(void) {
	char name[64], name2[64], name3[64];
	int sync[2], st;
	// So that ours does not have the lowest number.
	int low = master(0, 0, name);
	int m = master(0, 1, name), m2 = master(O_NONBLOCK, 1, name2), m3 = master(O_NONBLOCK, 0, name3);
	close(low);
	struct winsize w = {33, 77, 5, 6};
	ioctl(m, TIOCSWINSZ, &w);
	CHECK(pipe(sync) == 0);
	int leader = fork();
	if (leader == 0) {
		setsid();
		int s = open(name, O_RDWR), s2 = open(name, O_RDWR | O_NONBLOCK), tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
		fchmod(s, 0622);
		struct termios t;
		memset(&t, 0, sizeof t);
		tcgetattr(s, &t);
		t.c_lflag &= ~ECHO;
		t.c_cc[VINTR] = 'x';
		cfsetspeed(&t, B9600);
		tcsetattr(s, TCSANOW, &t);
		tcgetattr(s, &t);
		dup2(s, 0);
		dup2(s2, 20);
		signal(SIGTTOU, SIG_IGN);
		int front = fork();
		if (front == 0) {
			setpgid(0, 0);
			tcsetpgrp(s, getpid());
			CHECK(write(sync[1], "r", 1) == 1);
			foreground(name, tty, &t);
		}
		close(s), close(s2), close(0), close(20); // it leads the session nonetheless
		CHECK(waitpid(front, &st, 0) == front && st == 0);
		_exit(failures);
	}
	char c;
	CHECK(read(sync[0], &c, 1) == 1);
	int on = 1;
	CHECK(ioctl(m2, TIOCPKT, &on) == 0 && close(open(name2, O_RDWR | O_NOCTTY)) == 0);
	CHECK(read(m2, &c, 1) == -1 && errno == EIO && read(m3, &c, 1) == -1 && errno == EAGAIN);
	ready();
	await();
	CHECK(!strcmp(name, ptsname(m)) && !strcmp(name2, ptsname(m2)));
	CHECK(write(m, "x", 1) == 1 && answer(m, "ok") && write(m, "yz\n", 3) == 3);
	CHECK(waitpid(leader, &st, 0) == leader && st == 0);
	CHECK(ioctl(m2, TIOCGPKT, &on) == 0 && on == 1 && read(m2, &c, 1) == -1 && errno == EIO);
	int s = open(name2, O_RDWR | O_NOCTTY);
	CHECK(s >= 0 && write(s, "p", 1) == 1);
	char packet[9];
	struct pollfd p = {m2, POLLIN, 0};
	CHECK(poll(&p, 1, 1000) == 1 && read(m2, packet, 9) == 2 && packet[0] == TIOCPKT_DATA && packet[1] == 'p');
	CHECK(read(m3, &c, 1) == -1 && errno == EAGAIN && open(name3, O_RDWR | O_NOCTTY) == -1 && errno == EIO);
	CHECK(unlockpt(m3) == 0 && open(name3, O_RDWR | O_NOCTTY) >= 0);
}
