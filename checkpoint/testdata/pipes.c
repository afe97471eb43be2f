// Named pipes, and pipes of packets.
#include <poll.h>

static void pipes(void) {
	char buf[8192];
	CHECK(mkfifo("fifo", 0600) == 0 && mkfifo("quiet", 0600) == 0 && mkfifo("both", 0600) == 0);
	int r = open("fifo", O_RDONLY | O_NONBLOCK), w = open("fifo", O_WRONLY), w2 = open("fifo", O_WRONLY | O_NONBLOCK);
	fcntl(w, F_SETPIPE_SZ, 1 << 17);
	char big[70000];
	memset(big, 'f', sizeof big);
	CHECK(write(w, big, sizeof big) == sizeof big && write(w2, "end", 3) == 3);
	int quiet = open("quiet", O_RDONLY | O_NONBLOCK); // nobody ever wrote
	int both = open("both", O_RDWR);
	CHECK(write(both, "both", 4) == 4);
	int p[2];
	CHECK(pipe2(p, O_DIRECT | O_NONBLOCK) == 0);
	memset(buf, 'p', sizeof buf);
	CHECK(write(p[1], "one", 3) == 3 && write(p[1], buf, 4096) == 4096 && write(p[1], "three", 5) == 5 && write(p[1], buf, 5000) == 5000);
	int sync[2];
	CHECK(pipe(sync) == 0);
	int pid = fork();
	if (pid == 0) {
		close(w);
		close(w2);
		char c;
		CHECK(read(sync[0], &c, 1) == 1);
		CHECK(write(p[1], "child", 5) == 5);
		int late = open("fifo", O_WRONLY); // whoever has the name gets the same
		CHECK(write(late, "late", 4) == 4);
		_exit(failures);
	}
	ready();
	await();
	CHECK(fcntl(r, F_GETPIPE_SZ) == 1 << 17 && (fcntl(r, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_RDONLY | O_NONBLOCK));
	CHECK((fcntl(w, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_WRONLY && fcntl(w2, F_GETFL) & O_NONBLOCK);
	int n = 0, k;
	memset(big, 0, sizeof big);
	while (n < (int)sizeof big && (k = read(r, big + n, sizeof big - n)) > 0) n += k;
	CHECK(n == sizeof big && big[0] == 'f' && big[n - 1] == 'f' && read(r, buf, 10) == 3 && !memcmp(buf, "end", 3));
	CHECK(read(r, buf, 1) == -1 && errno == EAGAIN);
	struct pollfd q = {quiet, POLLIN, 0};
	CHECK(poll(&q, 1, 0) == 0 && read(quiet, buf, 1) == 0);
	CHECK(read(both, buf, 10) == 4 && !memcmp(buf, "both", 4));
	CHECK(read(p[0], buf, sizeof buf) == 3 && !memcmp(buf, "one", 3));
	CHECK(read(p[0], buf, sizeof buf) == 4096 && buf[4095] == 'p');
	CHECK(read(p[0], buf, 2) == 2 && !memcmp(buf, "th", 2));
	CHECK(read(p[0], buf, sizeof buf) == 4096 && read(p[0], buf, sizeof buf) == 904 && read(p[0], buf, 1) == -1 && errno == EAGAIN);
	CHECK(write(p[1], "a", 1) == 1 && write(p[1], "b", 1) == 1 && read(p[0], buf, 9) == 1 && read(p[0], buf, 9) == 1);
	CHECK(fcntl(p[1], F_GETFL) & O_DIRECT);
	CHECK(write(sync[1], "x", 1) == 1);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(read(p[0], buf, 9) == 5 && read(r, buf, 9) == 4 && !memcmp(buf, "late", 4));
	close(w);
	CHECK(read(r, buf, 1) == -1 && errno == EAGAIN);
	close(w2);
	CHECK(read(r, buf, 1) == 0);
}
