/*
 * The container's spec, as the VMM sends it (TLVs of native/protocol/agent.h), turned into
 * something that the rest of init can use without further checks. No system calls: the unit tests
 * run it on the host.
 */
#ifndef CLEARVM_ROOTFS_PARSE_SPEC_H_
#define CLEARVM_ROOTFS_PARSE_SPEC_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct spec_mount {
  uint64_t flags;   /* MS_* */
  uint32_t options; /* CLEARVM_MOUNT_* */
  char *type, *source, *target, *data;
};

struct spec_rlimit {
  uint32_t resource; /* RLIMIT_* */
  uint64_t soft, hard;
};

struct spec_file {
  uint32_t mode; /* permission bits */
  char* path;
  char* content; /* not terminated */
  size_t length; /* bytes of content */
};

struct spec_caps {
  uint64_t bounding, effective, permitted, inheritable, ambient;
};

/* All strings are NUL-terminated, and lie in the buffer that was parsed. */
struct spec {
  char** args; /* NULL-terminated, at least one */
  size_t arg_count;
  char** env; /* NULL-terminated; env_count entries, and room for one more */
  size_t env_count;
  char** groups;
  size_t group_count;
  char** sysctls; /* "name=value" */
  size_t sysctl_count;
  char** masked; /* absolute paths */
  size_t masked_count;
  char** readonly; /* absolute paths */
  size_t readonly_count;
  struct spec_mount* mounts;
  size_t mount_count;
  struct spec_rlimit* rlimits;
  size_t rlimit_count;
  struct spec_file* files;
  size_t file_count;
  char* cwd;      /* absolute; "/" where the spec has none */
  char* user;     /* "" where the spec has none */
  char* hostname; /* NULL where the spec has none */
  char *root_type, *root_source, *root_data;
  uint32_t flags; /* CLEARVM_FLAG_* */
  bool has_caps;
  struct spec_caps caps;
  uint16_t rows, columns; /* 0: not given */
  int32_t oom_score;      /* proc(5)'s oom_score_adj */
  uint32_t pids;          /* threads; 0: not limited */
};

/* What a spec is of. */
enum spec_kind {
  SPEC_CONTAINER,
  SPEC_EXEC /* one more process: what is about the container is refused */
};

/*
 * Parses `length` bytes of TLVs. `data` is changed in place (strings are terminated), and must
 * outlive `spec`. Returns NULL, or what is wrong: a constant sentence that names the field.
 * spec_free either way.
 */
const char* spec_parse(uint8_t* data, size_t length, enum spec_kind kind, struct spec* spec);

/* Frees the arrays of a spec. */
void spec_free(struct spec* spec);

/* The value of NAME in a NULL-terminated list of "NAME=value", or NULL. The last one wins, as in
 * docker. */
const char* env_get(char* const* env, const char* name);

#ifdef __cplusplus
}
#endif

#endif
