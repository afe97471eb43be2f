// Children that are stopped, which their parent knows, or not yet.
static volatile sig_atomic_t children;
static void on_child(int s) { (void)s; children++; }
static char state_of(int pid) {
	char path[64], line[256] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	FILE *f = fopen(path, "r");
	if (!f) return 0;
	if (!fgets(line, sizeof line, f)) line[0] = 0;
	fclose(f);
	char *end = strrchr(line, ')');
	return end ? end[2] : 0;
}
// stands says whether a process is stopped, or is not, in a moment.
static int stands(int pid, int yes) {
	for (int i = 0; i < 1000 && (state_of(pid) == 'T') != yes; i++) usleep(1000);
	return (state_of(pid) == 'T') == yes;
}
static void *idle(void *arg) { return sleep(1000), arg; }

static void stopped(void) {
	struct sigaction a = {.sa_handler = on_child, .sa_flags = SA_RESTART};
	sigaction(SIGCHLD, &a, 0);
	int p[2], pids[3], st;
	CHECK(pipe(p) == 0);
	for (int i = 0; i < 3; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			pthread_t t;
			if (i == 0) pthread_create(&t, 0, idle, 0);
			int n = 0;
			struct timespec ms = {0, 1000000};
			CHECK(write(p[1], "r", 1) == 1);
			if (i == 2) { // goes on as soon as it may
				raise(SIGSTOP);
				_exit(failures);
			}
			while (!go && n++ < 20000) nanosleep(&ms, 0);
			_exit(failures + 7);
		}
	}
	char c;
	for (int i = 0; i < 3; i++) CHECK(read(p[0], &c, 1) == 1);
	kill(pids[0], SIGSTOP);
	CHECK(waitpid(pids[0], &st, WUNTRACED) == pids[0] && WIFSTOPPED(st));
	kill(pids[1], SIGSTOP);
	CHECK(waitpid(pids[2], &st, WUNTRACED) == pids[2] && WIFSTOPPED(st));
	while (state_of(pids[1]) != 'T') usleep(1000);
	int before = children;
	ready();
	await();
	CHECK(children == before);
	for (int i = 0; i < 3; i++) CHECK(stands(pids[i], 1));
	CHECK(waitpid(pids[0], &st, WUNTRACED | WNOHANG) == 0 && waitpid(pids[2], &st, WUNTRACED | WNOHANG) == 0);
	CHECK(waitpid(pids[1], &st, WUNTRACED | WNOHANG) == pids[1] && WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
	kill(pids[2], SIGCONT);
	CHECK(waitpid(pids[2], &st, 0) == pids[2] && st == 0);
	kill(pids[0], SIGCONT);
	CHECK(waitpid(pids[0], &st, WCONTINUED) == pids[0] && WIFCONTINUED(st));
	CHECK(stands(pids[0], 0));
	for (int i = 0; i < 2; i++) {
		kill(pids[i], SIGKILL);
		CHECK(waitpid(pids[i], &st, 0) == pids[i] && WTERMSIG(st) == SIGKILL);
	}
}
