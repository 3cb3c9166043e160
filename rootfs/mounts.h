/* The container's file systems: its root, those that every container has, its volumes and generated
 * files. */
#ifndef CLEARVM_ROOTFS_MOUNTS_H_
#define CLEARVM_ROOTFS_MOUNTS_H_

#include "rootfs/parse_spec.h"

/* Each ends in FAIL where something cannot be done. In this order: */

/* Makes /proc, /sys, /dev and what lies below them, apart from any root. Of this a template is
 * made: whatever is done here, no fork has to do. */
void mount_prepare(void);

/* Mounts the root and makes it "/", for the rest of init's life. */
void mount_root(const struct spec* spec);
/* Moves /proc, /sys and /dev into the root. */
void mount_builtin(void);
/* The spec's mounts, then its files, each in the spec's order. */
void mount_volumes(const struct spec* spec);
void mount_files(const struct spec* spec);
/* Puts the terminal's device on /dev/console. */
void mount_console(const char* terminal);
/* Makes the root read-only where the spec says so. */
void mount_finish(const struct spec* spec);

/* Later: gives the generated files of the spec their new content, and /proc's boot_id another one.
 * What the container has changed there stays as it is. */
void mount_renew_files(const struct spec* spec);
void mount_boot_id(const char* text, size_t length);

/* Makes a directory (0755) and its parents; one that exists is fine. Returns 0, or -1 with errno
 * set. */
int make_directories(const char* path);

#endif
