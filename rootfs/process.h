/* The container's process: who it is, what it may do, and its start. */
#ifndef CLEARVM_ROOTFS_PROCESS_H_
#define CLEARVM_ROOTFS_PROCESS_H_

#include <sys/types.h>

#include "rootfs/parse_spec.h"
#include "rootfs/parse_users.h"

/* Finds the spec's user and groups in the image's /etc/passwd and /etc/group, and sets HOME where
 * it is not set. Returns 0, or -1 with a failure noted. */
int process_identify(struct spec* spec, struct identity* identity);

/* Has all processes that are started from now on keep the spec's `pids` and `oom_score`. Returns 0,
 * or -1 with a failure noted. */
int process_limit(const struct spec* spec);

/*
 * Starts process `number` with `stdio` as its fds 0 to 2 (one terminal three times, where the spec
 * asks for one), in the caller's working directory. Returns its pid once its execve(2) has
 * succeeded, or -1 with a failure noted.
 */
pid_t process_start(uint32_t number, const struct spec* spec, const struct identity* identity,
                    const int stdio[3]);

#endif
