#include "rootfs/builtin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_MAX 4096 /* of what is read of one file, bytes: command lines are cut */
#define KTHREADD 2    /* the parent of all threads of the kernel */

struct text {
  char bytes[TEXT_MAX];
  size_t length;
};

static bool read_text(int directory, const char* path, struct text* text) {
  int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  text->length = 0;
  ssize_t got;
  while ((got = read(fd, text->bytes + text->length, sizeof text->bytes - 1 - text->length)) > 0)
    text->length += (size_t)got;
  close(fd);
  text->bytes[text->length] = 0;
  return got >= 0;
}

/* The reader may be gone: then SIGPIPE ends this process. */
static void put(const char* bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(STDOUT_FILENO, bytes, length);
    if (written < 0 && errno != EINTR) _exit(1);
    if (written > 0) bytes += written, length -= (size_t)written;
  }
}

static void put_clean(struct text* text) {
  while (text->length > 0 && (unsigned char)text->bytes[text->length - 1] < ' ') text->length--;
  for (size_t i = 0; i < text->length; i++)
    if ((unsigned char)text->bytes[i] < ' ') text->bytes[i] = ' ';
  put(text->bytes, text->length);
}

/* The number behind `label` in a text of "label number" lines; 0 where it is not there. */
static unsigned long find_number(const struct text* text, const char* label) {
  const char* at = strstr(text->bytes, label);
  return at == NULL ? 0 : strtoul(at + strlen(label), NULL, 10);
}

/* Calls `each` for every process that is the container's: its directory in /proc, and its status.
 */
static int for_each_process(void (*each)(int directory, const struct text* status)) {
  DIR* list = opendir("/proc");
  if (list == NULL) return 1;
  static struct text status;
  for (struct dirent* entry; (entry = readdir(list)) != NULL;) {
    char* end;
    unsigned long pid = strtoul(entry->d_name, &end, 10);
    if (*end != 0 || pid <= KTHREADD || pid == (unsigned long)getpid()) continue;
    int directory = openat(dirfd(list), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) continue;
    if (read_text(directory, "status", &status) && find_number(&status, "\nPPid:") != KTHREADD)
      each(directory, &status);
    close(directory);
  }
  closedir(list);
  return 0;
}

static void show_process(int directory, const struct text* status) {
  static struct text stat, command;
  if (!read_text(directory, "stat", &stat) || !read_text(directory, "cmdline", &command)) return;
  const char* uid = strstr(status->bytes, "\nUid:\t");
  if (uid == NULL) return;
  uid += sizeof "\nUid:\t" - 1;
  put(uid, strcspn(uid, "\t"));
  put("\t", 1);
  put_clean(&stat);
  put("\t", 1);
  put_clean(&command);
  put("\n", 1);
}

static unsigned long tasks;

static void count_tasks(int directory, const struct text* status) {
  (void)directory;
  tasks += find_number(status, "\nThreads:");
}

static int show_stats(void) {
  static struct text text;
  if (!read_text(AT_FDCWD, "/proc/meminfo", &text)) return 1;
  put(text.bytes, text.length);
  if (!read_text(AT_FDCWD, "/proc/stat", &text)) return 1;
  put(text.bytes, strcspn(text.bytes, "\n"));
  int status = for_each_process(count_tasks);
  char digits[24];
  size_t at = sizeof digits;
  digits[--at] = '\n';
  do digits[--at] = (char)('0' + tasks % 10);
  while ((tasks /= 10) != 0);
  put("\nTasks: ", 8);
  put(digits + at, sizeof digits - at);
  return status;
}

static int show_top(void) {
  static struct text text;
  if (!read_text(AT_FDCWD, "/proc/uptime", &text)) return 1;
  put(text.bytes, text.length);
  return for_each_process(show_process);
}

/* What the host has changed below the root is seen from now on, but for what is open. */
static int refresh(void) {
  sync();
  /* The container's own /proc/sys is read-only, and this mount is nobody else's. */
  if (unshare(CLONE_NEWNS) != 0 || mount("proc", "/proc", "proc", 0, NULL) != 0) return 1;
  int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return 1;
  int status = write(fd, "3", 1) == 1 ? 0 : 1;
  close(fd);
  return status;
}

int builtin_run(const char* name) {
  if (strcmp(name, "top") == 0) return show_top();
  if (strcmp(name, "stats") == 0) return show_stats();
  if (strcmp(name, "sync") == 0) return sync(), 0;
  if (strcmp(name, "refresh") == 0) return refresh();
  return 127;
}
