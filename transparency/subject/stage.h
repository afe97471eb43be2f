// A stage is a process that starts one subject for each blocking call, lets
// them all make their calls, brings about the events that end them, and
// reports what the subjects saw. Calls are made without the C library, whose
// wrappers copy arguments.
#ifndef STAGE_H
#define STAGE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct call;

// A subject is one process that makes one call. It lies in memory that it
// shares with the stage, as do the words that futexes need.
struct subject {
	const struct call *call;
	int id;
	int a, b, c, d;     // whatever the call works on; mostly descriptors
	pid_t pid, tid;     // tid is the task that makes the call
	pid_t helper;       // a process that the call needs, outside of the group
	uint32_t word[4];   // futexes
	char path[108];
	char data[4096];
	int ready, go, done;
	long result;        // as the kernel gives it: -errno on failure
	int64_t began, ended; // CLOCK_MONOTONIC, ns
	int usr1, usr2, cont; // how often handlers ran
};

enum { FOREVER = -1 }; // a timeout in milliseconds

enum {
	TIMED = 1,  // the call takes a timeout
	EVENT = 2,  // something can end the call
	SLOW = 4,   // ... but only at the kernel's next beat of its own
	THREAD = 8, // needs a process of one thread
};

struct call {
	const char *name;
	int flags;
	void (*setup)(struct subject *);              // in the stage, before the fork
	void (*ready)(struct subject *);              // in the subject, not yet in the group
	long (*block)(struct subject *, int timeout); // in the subject; -errno on failure
	void (*event)(struct subject *);              // in the stage
};

// One table per file, each ended by a call without a name.
extern const struct call sleep_calls[], poll_calls[], ipc_calls[], file_calls[], socket_calls[], transfer_calls[];

extern char scratch[]; // a directory of the stage's own

void die(const char *what);
int ok(int result, const char *what);
int64_t now(clockid_t clock);
struct timespec span(int ms);                     // a length of time
struct timespec deadline(clockid_t clock, int ms); // a point in time
long sys(long nr, ...);                           // the bare call: -errno on failure

#define CALL6(nr, a, b, c, d, e, f) sys(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(nr, a, b, c, d) CALL6(nr, a, b, c, d, 0L, 0L)

// Hooks that many calls share: a pipe whose read end is a and write end b, a
// byte that arrives in b, and what leaves from a, at once or bit by bit for a
// while, where the kernel takes its time to move things on.
void make_pipe(struct subject *s);
void make_full_pipe(struct subject *s);
void put_byte(struct subject *s);
void drain(struct subject *s);
void drain_slowly(struct subject *s);
int fill(int fd);
void fill_up(int fd);

#endif
