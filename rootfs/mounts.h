/* The container's file systems: its root, those that every container has, its volumes and generated
 * files. */
#ifndef CLEARVM_ROOTFS_MOUNTS_H_
#define CLEARVM_ROOTFS_MOUNTS_H_

#include "rootfs/parse_spec.h"

/* Each ends in FAIL where something cannot be done. In this order: */

/* Mounts the root and makes it "/", for the rest of init's life. */
void mount_root(const struct spec* spec);
/* /proc, /sys, /dev and what lies below them. */
void mount_builtin(void);
/* The spec's mounts, then its files, each in the spec's order. */
void mount_volumes(const struct spec* spec);
void mount_files(const struct spec* spec);
/* Puts the terminal's device on /dev/console. */
void mount_console(const char* terminal);
/* Closes what the above needed, and makes the root read-only where the spec says so. */
void mount_finish(const struct spec* spec);

/* Makes a directory (0755) and its parents; one that exists is fine. Returns 0, or -1 with errno
 * set. */
int make_directories(const char* path);

#endif
