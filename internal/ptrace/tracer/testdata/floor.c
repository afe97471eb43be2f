// floor: the bare way. For each line "seize TID..." it seizes and interrupts all,
// waits for all, and answers with the nanoseconds that took; for "detach" it lets
// all go, and answers likewise.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

int main(void)
{
	static char line[1 << 20];
	static int tids[1 << 16];
	int n = 0, status;
	while (fgets(line, sizeof line, stdin)) {
		if (!strncmp(line, "seize", 5)) {
			n = 0;
			strtok(line, " ");
			for (char *word; (word = strtok(0, " \n"));)
				tids[n++] = atoi(word);
		}
		long begun = now();
		if (line[0] == 's') {
			for (int i = 0; i < n; i++) {
				ptrace(PTRACE_SEIZE, tids[i], 0, 0);
				ptrace(PTRACE_INTERRUPT, tids[i], 0, 0);
			}
			for (int i = 0; i < n; i++)
				waitpid(tids[i], &status, __WALL);
		} else {
			for (int i = 0; i < n; i++)
				ptrace(PTRACE_DETACH, tids[i], 0, 0);
		}
		printf("%ld\n", now() - begun);
		fflush(stdout);
	}
}
