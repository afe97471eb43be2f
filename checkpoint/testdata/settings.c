// Rare settings of prctl.
#define GET(n) prctl(n, 0, 0, 0, 0)

static int settings_merge, settings_pipe[2];
static void *settled(void *arg) {
	prctl(33, 1, 0, 0, 0); // PR_MCE_KILL: late
	char c;
	CHECK(read(settings_pipe[0], &c, 1) == 1);
	CHECK(GET(34) == 0 && prctl(52, 0, 0, 0, 0) == *(int *)arg);
	return arg;
}
static void settings(void) {
	CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	settings_merge = prctl(67, 1, 0, 0, 0) == 0; // PR_SET_MEMORY_MERGE, which not all kernels know
	int mdwe = prctl(65, 1, 0, 0, 0) == 0;
	int flusher = prctl(57, 1, 0, 0, 0) == 0;
	CHECK(prctl(33, 1, 1, 0, 0) == 0);
	int barriers = syscall(SYS_membarrier, 16, 0, 0) == 0 && syscall(SYS_membarrier, 512, 0, 0) > 0; // private expedited
	pthread_t t;
	int spec = prctl(52, 0, 0, 0, 0), branches;
	CHECK(pipe(settings_pipe) == 0);
	pthread_create(&t, 0, settled, &spec);
	prctl(53, 0, 4, 0, 0);
	prctl(53, 1, 8, 0, 0);
	int own = prctl(52, 0, 0, 0, 0);
	branches = prctl(52, 1, 0, 0, 0);
	ready();
	await();
	CHECK(GET(PR_GET_THP_DISABLE) == 1 && (!settings_merge || GET(68) == 1) && (!mdwe || GET(66) == 1) && (!flusher || GET(58) == 1));
	CHECK(!mdwe || mmap(0, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	CHECK(!barriers || (syscall(SYS_membarrier, 512, 0, 0) == 16 && syscall(SYS_membarrier, 8, 0, 0) == 0));
	CHECK(GET(34) == 1 && prctl(52, 0, 0, 0, 0) == own && prctl(52, 1, 0, 0, 0) == branches);
	CHECK(write(settings_pipe[1], "x", 1) == 1 && pthread_join(t, 0) == 0);
}
