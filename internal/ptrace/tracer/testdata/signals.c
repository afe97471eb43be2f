// signals FILE: takes numbered realtime signals and checks that none is lost and
// that their order is kept, in three threads that sleep, run and wait.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct {
	atomic_ulong beats, last, wrong, restarted, pending;
} *log_;

static void take(int signal, siginfo_t *info, void *context)
{
	unsigned long n = (unsigned long)info->si_value.sival_ptr;
	if (n != log_->last + 1)
		log_->wrong++;
	log_->last = n;
}

static void *run(void *unused)
{
	for (;;) {
		log_->beats++;
		usleep(200);
	}
	return unused;
}

static void *wait_(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int main(int n, char **v)
{
	int fd = open(v[1], O_RDWR);
	log_ = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, 0);
	pthread_t t;
	pthread_create(&t, 0, run, 0);
	pthread_create(&t, 0, wait_, 0);
	struct sigaction act = {.sa_sigaction = take, .sa_flags = SA_SIGINFO | SA_RESTART};
	sigaction(SIGRTMIN, &act, 0);
	pthread_sigmask(SIG_UNBLOCK, &set, 0);
	for (unsigned i = 0;; i++) // sometimes the signal finds it asleep, and sometimes not
		if (i % 1000 == 0)
			usleep(100);
}
