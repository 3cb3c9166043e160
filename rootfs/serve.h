/* The processes that the VMM knows of, from their start to their end: the container's first one,
 * and those of EXEC. */
#ifndef CLEARVM_ROOTFS_SERVE_H_
#define CLEARVM_ROOTFS_SERVE_H_

#include <sys/types.h>

#include "rootfs/channels.h"

/* Has SIGCHLD heard of. Before any process is made. */
void serve_prepare(void);

/*
 * Does what the VMM asks for until the container's first process, whose pid and channels these are,
 * has ended, and all of its output is with the VMM. What else runs then is killed. Returns its
 * status, as of waitpid(2).
 */
int serve(pid_t pid, struct channels* channels);

/* What a process with such a status exits with, as a shell has it, and which signal has ended it
 * (0: none). */
struct end {
  uint32_t code, signal;
};
struct end end_of(int status);

#endif
