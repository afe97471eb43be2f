// debugger: stops a child by ptrace, writes its PID, and waits.
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

int main(void)
{
	pid_t p = fork();
	if (p == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	ptrace(PTRACE_SEIZE, p, 0, 0);
	ptrace(PTRACE_INTERRUPT, p, 0, 0);
	waitpid(p, 0, __WALL);
	printf("%d\n", p);
	fflush(stdout);
	for (;;)
		pause();
}
