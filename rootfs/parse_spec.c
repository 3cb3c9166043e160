#include "rootfs/parse_spec.h"

#include <stdlib.h>
#include <string.h>

#include "native/protocol/agent.h"

#define TAG_LIMIT 19 /* one more than the highest tag */
#define RLIMIT_LIMIT 16
#define PATH_LIMIT 4096
#define HOSTNAME_LIMIT 64

/* Splits `count` NUL-terminated strings off the front of [data, end). Returns where they end, or
 * NULL. */
static uint8_t* take_strings(uint8_t* data, uint8_t* end, char** strings[], size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint8_t* nul = memchr(data, 0, (size_t)(end - data));
    if (nul == NULL) return NULL;
    *strings[i] = (char*)data;
    data = nul + 1;
  }
  return data;
}

/*
 * Makes a string of a TLV's value. The value has no terminator, and the byte behind it belongs to
 * the next header: so the value moves one byte down, over its own header, which has been read by
 * then.
 */
static char* terminate(uint8_t* value, size_t length) {
  if (length > 0 && memchr(value, 0, length) != NULL) return NULL;
  memmove(value - 1, value, length);
  value[length - 1] = 0;
  return (char*)(value - 1);
}

static bool is_path(const char* path) {
  return path != NULL && path[0] == '/' && strlen(path) < PATH_LIMIT;
}

static bool is_assignment(const char* text) {
  return text != NULL && text[0] != '=' && strchr(text, '=') != NULL;
}

static const char* parse_mount(uint8_t* value, size_t length, struct spec* spec) {
  struct clearvm_spec_mount header;
  struct spec_mount mount;
  if (length < sizeof header) return "MOUNT is too short";
  memcpy(&header, value, sizeof header);
  char** strings[] = {&mount.type, &mount.source, &mount.target, &mount.data};
  uint8_t* end = value + length;
  if (take_strings(value + sizeof header, end, strings, 4) != end)
    return "MOUNT is not four strings";
  if (header.reserved != 0) return "MOUNT has reserved bits set";
  if ((header.options & ~CLEARVM_MOUNT_FILE) != 0) return "MOUNT has unknown options";
  if (!is_path(mount.target)) return "MOUNT's target is not an absolute path";
  mount.flags = header.flags;
  mount.options = header.options;
  spec->mounts[spec->mount_count++] = mount;
  return NULL;
}

static const char* parse_file(uint8_t* value, size_t length, struct spec* spec) {
  struct spec_file file;
  if (length < sizeof file.mode) return "FILE is too short";
  memcpy(&file.mode, value, sizeof file.mode);
  char** strings[] = {&file.path};
  uint8_t* content = take_strings(value + sizeof file.mode, value + length, strings, 1);
  if (content == NULL) return "FILE's path does not end";
  if (!is_path(file.path)) return "FILE's path is not absolute";
  if ((file.mode & ~07777u) != 0) return "FILE's mode is more than permission bits";
  file.content = (char*)content;
  file.length = (size_t)(value + length - content);
  spec->files[spec->file_count++] = file;
  return NULL;
}

static const char* parse_rlimit(const uint8_t* value, size_t length, struct spec* spec) {
  uint32_t words[2];
  struct spec_rlimit limit;
  if (length != 24) return "RLIMIT is not 24 bytes";
  memcpy(words, value, 8);
  memcpy(&limit.soft, value + 8, 8);
  memcpy(&limit.hard, value + 16, 8);
  if (words[0] >= RLIMIT_LIMIT || words[1] != 0) return "RLIMIT is unknown";
  if (limit.soft > limit.hard) return "RLIMIT's soft limit is above its hard limit";
  limit.resource = words[0];
  spec->rlimits[spec->rlimit_count++] = limit;
  return NULL;
}

static const char* parse_string(uint16_t tag, uint8_t* value, size_t length, struct spec* spec) {
  char* text = length == 0 ? (value[-1] = 0, (char*)(value - 1)) : terminate(value, length);
  if (text == NULL) return "a string has a NUL in it";
  switch (tag) {
    case CLEARVM_SPEC_ARG:
      spec->args[spec->arg_count++] = text;
      return NULL;
    case CLEARVM_SPEC_ENV:
      if (!is_assignment(text)) return "ENV is not NAME=value";
      spec->env[spec->env_count++] = text;
      return NULL;
    case CLEARVM_SPEC_GROUP:
      if (length == 0) return "GROUP is empty";
      spec->groups[spec->group_count++] = text;
      return NULL;
    case CLEARVM_SPEC_SYSCTL:
      if (!is_assignment(text)) return "SYSCTL is not name=value";
      spec->sysctls[spec->sysctl_count++] = text;
      return NULL;
    case CLEARVM_SPEC_MASK:
      if (!is_path(text)) return "MASK is not an absolute path";
      spec->masked[spec->masked_count++] = text;
      return NULL;
    case CLEARVM_SPEC_READONLY:
      if (!is_path(text)) return "READONLY is not an absolute path";
      spec->readonly[spec->readonly_count++] = text;
      return NULL;
    case CLEARVM_SPEC_CWD:
      if (!is_path(text)) return "CWD is not an absolute path";
      spec->cwd = text;
      return NULL;
    case CLEARVM_SPEC_USER:
      spec->user = text;
      return NULL;
    default: /* CLEARVM_SPEC_HOSTNAME */
      if (length == 0 || length > HOSTNAME_LIMIT) return "HOSTNAME is not 1 to 64 bytes";
      spec->hostname = text;
      return NULL;
  }
}

static const char* parse_value(uint16_t tag, uint8_t* value, size_t length, struct spec* spec) {
  switch (tag) {
    case CLEARVM_SPEC_MOUNT:
      return parse_mount(value, length, spec);
    case CLEARVM_SPEC_FILE:
      return parse_file(value, length, spec);
    case CLEARVM_SPEC_RLIMIT:
      return parse_rlimit(value, length, spec);
    case CLEARVM_SPEC_CAPS:
      if (length != sizeof spec->caps) return "CAPS is not five masks";
      memcpy(&spec->caps, value, sizeof spec->caps);
      spec->has_caps = true;
      return NULL;
    case CLEARVM_SPEC_FLAGS:
      if (length != 4) return "FLAGS is not 4 bytes";
      memcpy(&spec->flags, value, 4);
      if ((spec->flags & ~(CLEARVM_FLAG_TERMINAL | CLEARVM_FLAG_STDIN | CLEARVM_FLAG_NO_NEW_PRIVS |
                           CLEARVM_FLAG_READONLY_ROOT | CLEARVM_FLAG_BUILTIN)) != 0)
        return "FLAGS has unknown bits";
      return NULL;
    case CLEARVM_SPEC_PIDS:
      if (length != 4) return "PIDS is not 4 bytes";
      memcpy(&spec->pids, value, 4);
      return spec->pids == 0 ? "PIDS is 0" : NULL;
    case CLEARVM_SPEC_OOM_SCORE:
      if (length != 4) return "OOM_SCORE is not 4 bytes";
      memcpy(&spec->oom_score, value, 4);
      return spec->oom_score < -1000 || spec->oom_score > 1000 ? "OOM_SCORE is out of range" : NULL;
    case CLEARVM_SPEC_WINSIZE:
      if (length != 4) return "WINSIZE is not 4 bytes";
      memcpy(&spec->rows, value, 2);
      memcpy(&spec->columns, value + 2, 2);
      return NULL;
    case CLEARVM_SPEC_ROOT: {
      char** strings[] = {&spec->root_type, &spec->root_source, &spec->root_data};
      if (take_strings(value, value + length, strings, 3) != value + length)
        return "ROOT is not three strings";
      return NULL;
    }
    default:
      return parse_string(tag, value, length, spec);
  }
}

/* Checks the frames of all TLVs, and counts them by tag, so that the arrays can be made. */
static const char* count_tags(const uint8_t* data, size_t length, enum spec_kind kind,
                              size_t counts[TAG_LIMIT]) {
  for (size_t at = 0; at < length;) {
    struct clearvm_tlv tlv;
    if (length - at < sizeof tlv) return "a header is cut short";
    memcpy(&tlv, data + at, sizeof tlv);
    at += sizeof tlv;
    if (tlv.length > length - at) return "a value is cut short";
    if (tlv.tag == 0 || tlv.tag >= TAG_LIMIT) return "unknown tag";
    if (tlv.reserved != 0) return "a header has reserved bits set";
    counts[tlv.tag]++;
    at += tlv.length;
  }
  static const uint8_t once[] = {CLEARVM_SPEC_CWD,  CLEARVM_SPEC_USER,  CLEARVM_SPEC_HOSTNAME,
                                 CLEARVM_SPEC_CAPS, CLEARVM_SPEC_FLAGS, CLEARVM_SPEC_WINSIZE,
                                 CLEARVM_SPEC_ROOT, CLEARVM_SPEC_PIDS,  CLEARVM_SPEC_OOM_SCORE};
  for (size_t i = 0; i < sizeof once; i++)
    if (counts[once[i]] > 1) return "a tag that may come once comes twice";
  if (counts[CLEARVM_SPEC_ARG] == 0) return "ARG is missing";
  if (kind == SPEC_CONTAINER) return counts[CLEARVM_SPEC_ROOT] == 0 ? "ROOT is missing" : NULL;
  static const uint8_t container[] = {
      CLEARVM_SPEC_ROOT,     CLEARVM_SPEC_HOSTNAME, CLEARVM_SPEC_MOUNT,
      CLEARVM_SPEC_FILE,     CLEARVM_SPEC_SYSCTL,   CLEARVM_SPEC_MASK,
      CLEARVM_SPEC_READONLY, CLEARVM_SPEC_PIDS,     CLEARVM_SPEC_OOM_SCORE};
  for (size_t i = 0; i < sizeof container; i++)
    if (counts[container[i]] > 0) return "a tag that is about the container";
  return NULL;
}

const char* spec_parse(uint8_t* data, size_t length, enum spec_kind kind, struct spec* spec) {
  size_t counts[TAG_LIMIT] = {0};
  memset(spec, 0, sizeof *spec);
  spec->cwd = "/";
  spec->user = "";
  const char* wrong = count_tags(data, length, kind, counts);
  if (wrong != NULL) return wrong;

  spec->args = calloc(counts[CLEARVM_SPEC_ARG] + 1, sizeof *spec->args);
  spec->env = calloc(counts[CLEARVM_SPEC_ENV] + 2, sizeof *spec->env);
  spec->groups = calloc(counts[CLEARVM_SPEC_GROUP] + 1, sizeof *spec->groups);
  spec->sysctls = calloc(counts[CLEARVM_SPEC_SYSCTL] + 1, sizeof *spec->sysctls);
  spec->masked = calloc(counts[CLEARVM_SPEC_MASK] + 1, sizeof *spec->masked);
  spec->readonly = calloc(counts[CLEARVM_SPEC_READONLY] + 1, sizeof *spec->readonly);
  spec->mounts = calloc(counts[CLEARVM_SPEC_MOUNT] + 1, sizeof *spec->mounts);
  spec->rlimits = calloc(counts[CLEARVM_SPEC_RLIMIT] + 1, sizeof *spec->rlimits);
  spec->files = calloc(counts[CLEARVM_SPEC_FILE] + 1, sizeof *spec->files);
  if (spec->args == NULL || spec->env == NULL || spec->groups == NULL || spec->sysctls == NULL ||
      spec->masked == NULL || spec->readonly == NULL || spec->mounts == NULL ||
      spec->rlimits == NULL || spec->files == NULL)
    return "no memory left for it";

  for (size_t at = 0; at < length;) {
    struct clearvm_tlv tlv;
    memcpy(&tlv, data + at, sizeof tlv);
    at += sizeof tlv;
    wrong = parse_value(tlv.tag, data + at, tlv.length, spec);
    if (wrong != NULL) return wrong;
    at += tlv.length;
  }
  if (kind == SPEC_CONTAINER && (spec->flags & CLEARVM_FLAG_BUILTIN) != 0)
    return "FLAGS has unknown bits";
  return NULL;
}

void spec_free(struct spec* spec) {
  free(spec->args);
  free(spec->env);
  free(spec->groups);
  free(spec->sysctls);
  free(spec->masked);
  free(spec->readonly);
  free(spec->mounts);
  free(spec->rlimits);
  free(spec->files);
  memset(spec, 0, sizeof *spec);
}

const char* env_get(char* const* env, const char* name) {
  const char* found = NULL;
  size_t length = strlen(name);
  for (; *env != NULL; env++)
    if (strncmp(*env, name, length) == 0 && (*env)[length] == '=') found = *env + length + 1;
  return found;
}
