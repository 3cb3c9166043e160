/*
 * Users and groups by name, through the text of the image's /etc/passwd and /etc/group, with the
 * rules (and the messages) of docker and runc. No system calls: the unit tests run it on the host.
 */
#ifndef CLEARVM_ROOTFS_PARSE_USERS_H_
#define CLEARVM_ROOTFS_PARSE_USERS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IDENTITY_GROUPS_MAX 65536 /* the kernel's NGROUPS_MAX */
#define IDENTITY_HOME_MAX 4096

struct identity {
  uint32_t uid, gid;
  uint32_t groups[IDENTITY_GROUPS_MAX]; /* supplementary */
  size_t group_count;
  char home[IDENTITY_HOME_MAX]; /* "/" for a user without an entry */
};

/* A text file in memory; {NULL, 0} for one that does not exist. */
struct text_file {
  const char* data;
  size_t length;
};

/*
 * Finds `user` ("", "name", "uid", "name:group", "uid:gid", ...; "" is uid 0). A numeric user is
 * always a uid, and need not have an entry. Without a group, the gid and the supplementary groups
 * are those of the entry. Returns 0, or -1 with a message of at most `size` bytes in `error`.
 */
int identity_find(const char* user, struct text_file passwd, struct text_file group,
                  struct identity* identity, char* error, size_t size);

/* Adds one supplementary group, by name or gid. Returns as identity_find. */
int identity_add_group(const char* name, struct text_file group, struct identity* identity,
                       char* error, size_t size);

#ifdef __cplusplus
}
#endif

#endif
