#include "rootfs/parse_users.h"

#include <string.h>

#define ID_MAX 0x7fffffffu /* docker's and runc's limit of uids and gids */

struct field {
  const char* data;
  size_t length;
};

static bool field_is(struct field field, const char* text, size_t length) {
  return field.length == length && memcmp(field.data, text, length) == 0;
}

/* Reads decimal digits that are the whole field. False for anything else, and for more than an
 * int64 holds. */
static bool parse_number(struct field field, uint64_t* number) {
  *number = 0;
  if (field.length == 0 || field.length > 18) return false;
  for (size_t i = 0; i < field.length; i++) {
    if (field.data[i] < '0' || field.data[i] > '9') return false;
    *number = *number * 10 + (uint64_t)(field.data[i] - '0');
  }
  return true;
}

/* Takes the next line off `file`, spaces at both ends cut. False at the end. */
static bool next_line(struct text_file* file, struct field* line) {
  if (file->length == 0) return false;
  const char* newline = memchr(file->data, '\n', file->length);
  size_t length = newline == NULL ? file->length : (size_t)(newline - file->data);
  *line = (struct field){file->data, length};
  size_t used = newline == NULL ? length : length + 1;
  file->data += used;
  file->length -= used;
  while (line->length > 0 && strchr(" \t\r", line->data[0]) != NULL) line->data++, line->length--;
  while (line->length > 0 && strchr(" \t\r", line->data[line->length - 1]) != NULL) line->length--;
  return true;
}

/* Splits `line` at `separator` into at most `count` fields; the missing ones are empty. */
static void split(struct field line, char separator, struct field* fields, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const char* end = line.length == 0 ? NULL : memchr(line.data, separator, line.length);
    size_t length = end == NULL ? line.length : (size_t)(end - line.data);
    fields[i] = (struct field){line.data, length};
    size_t used = end == NULL ? length : length + 1;
    line.data += used;
    line.length -= used;
  }
}

/* An id in a passwd or group line; one that is not a number counts as 0, as it does in runc. */
static uint32_t line_id(struct field field) {
  uint64_t number;
  return parse_number(field, &number) && number <= UINT32_MAX ? (uint32_t)number : 0;
}

static int fail(char* error, size_t size, const char* before, struct field name,
                const char* after) {
  size_t at = 0;
  const struct field parts[] = {{before, strlen(before)}, name, {after, strlen(after)}};
  for (size_t i = 0; i < 3; i++)
    for (size_t j = 0; j < parts[i].length && at + 1 < size; j++) error[at++] = parts[i].data[j];
  error[at] = 0;
  return -1;
}

static int out_of_range(char* error, size_t size) {
  return fail(error, size, "uids and gids must be in range 0-2147483647", (struct field){"", 0},
              "");
}

static bool member_of(struct field list, struct field user) {
  while (list.length > 0) {
    struct field member;
    split(list, ',', &member, 1);
    if (field_is(member, user.data, user.length)) return true;
    size_t used = member.length < list.length ? member.length + 1 : member.length;
    list.data += used;
    list.length -= used;
  }
  return false;
}

static int add_gid(struct identity* identity, uint32_t gid, char* error, size_t size) {
  for (size_t i = 0; i < identity->group_count; i++)
    if (identity->groups[i] == gid) return 0;
  if (identity->group_count == IDENTITY_GROUPS_MAX)
    return fail(error, size, "the user is in more than 65536 groups", (struct field){"", 0}, "");
  identity->groups[identity->group_count++] = gid;
  return 0;
}

/* Finds a group by name, or by gid where `name` is a number. False: no such entry. */
static bool find_group(struct text_file group, struct field name, bool name_too, uint32_t* gid) {
  uint64_t number;
  bool numeric = parse_number(name, &number);
  struct field line;
  while (next_line(&group, &line)) {
    struct field fields[4];
    if (line.length == 0) continue;
    split(line, ':', fields, 4);
    *gid = line_id(fields[2]);
    if (numeric && *gid == number) return true;
    if ((!numeric || name_too) && field_is(fields[0], name.data, name.length)) return true;
  }
  return false;
}

static bool find_user(struct text_file passwd, struct field name, struct field fields[7]) {
  uint64_t number = 0;
  bool numeric = name.length == 0 || parse_number(name, &number); /* no name: root */
  struct field line;
  while (next_line(&passwd, &line)) {
    if (line.length == 0) continue;
    split(line, ':', fields, 7);
    if (numeric ? line_id(fields[2]) == number : field_is(fields[0], name.data, name.length))
      return true;
  }
  return false;
}

int identity_find(const char* user, struct text_file passwd, struct text_file group,
                  struct identity* identity, char* error, size_t size) {
  struct field parts[2];
  split((struct field){user, strlen(user)}, ':', parts, 2);
  struct field matched = {"", 0};
  identity->uid = identity->gid = 0;
  identity->group_count = 0;
  memcpy(identity->home, "/", 2);

  struct field entry[7];
  uint64_t number;
  if (find_user(passwd, parts[0], entry)) {
    matched = entry[0];
    identity->uid = line_id(entry[2]);
    identity->gid = line_id(entry[3]);
    if (entry[5].length >= IDENTITY_HOME_MAX)
      return fail(error, size, "the home directory of user ", parts[0], " is too long");
    if (entry[5].length > 0) {
      memcpy(identity->home, entry[5].data, entry[5].length);
      identity->home[entry[5].length] = 0;
    }
  } else if (parts[0].length > 0) {
    if (!parse_number(parts[0], &number))
      return fail(error, size, "unable to find user ", parts[0],
                  ": no matching entries in passwd file");
    if (number > ID_MAX) return out_of_range(error, size);
    identity->uid = (uint32_t)number;
  }

  bool named = parts[1].length > 0;
  if (named && !find_group(group, parts[1], false, &identity->gid)) {
    if (!parse_number(parts[1], &number))
      return fail(error, size, "unable to find group ", parts[1],
                  ": no matching entries in group file");
    if (number > ID_MAX) return out_of_range(error, size);
    identity->gid = (uint32_t)number;
  }
  /* A program that changes its gid stays subject to what is denied to this group (CVE-2022-36109).
   */
  if (add_gid(identity, identity->gid, error, size) != 0) return -1;
  struct field line;
  while (!named && matched.length > 0 && next_line(&group, &line)) {
    struct field fields[4];
    split(line, ':', fields, 4);
    if (member_of(fields[3], matched) && add_gid(identity, line_id(fields[2]), error, size) != 0)
      return -1;
  }
  return 0;
}

int identity_add_group(const char* name, struct text_file group, struct identity* identity,
                       char* error, size_t size) {
  struct field field = {name, strlen(name)};
  uint32_t gid;
  uint64_t number;
  if (!find_group(group, field, true, &gid)) {
    if (!parse_number(field, &number)) return fail(error, size, "Unable to find group ", field, "");
    if (number > ID_MAX) return out_of_range(error, size);
    gid = (uint32_t)number;
  }
  return add_gid(identity, gid, error, size);
}
