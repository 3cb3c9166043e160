/*
 * The workload of the file-system benchmarks, the same for ClearVM (as a container's command) and for QEMU (as the
 * guest's init, where the kernel's command line has "p9bench=DIRECTORY p9what=...": then it mounts the 9p export "data"
 * itself, and powers off).
 *
 *   p9bench read DIRECTORY    reads DIRECTORY/big from end to end
 *   p9bench find DIRECTORY    walks all of DIRECTORY/tree as find does
 *
 * Prints "p9bench read NS BYTES" or "p9bench find NS ENTRIES": nanoseconds of the guest's CLOCK_MONOTONIC.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
  printf("p9bench error %s: %s\n", what, strerror(errno));
  fflush(stdout);
  _exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t read_all(const char *path) {
  static char buffer[1 << 20];
  uint64_t total = 0;
  ssize_t got;
  int fd = open(path, O_RDONLY);
  if (fd < 0) die(path);
  /* Nothing may come from the guest's own cache: that would measure the guest. */
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  while ((got = read(fd, buffer, sizeof buffer)) > 0) total += (uint64_t)got;
  if (got < 0) die(path);
  close(fd);
  return total;
}

static uint64_t walk(int parent, const char *name) {
  uint64_t count = 0;
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (fd < 0) die(name);
  DIR *directory = fdopendir(fd);
  struct dirent *entry;
  while ((entry = readdir(directory)) != NULL) {
    struct stat info;
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) die(entry->d_name);
    count++;
    if (S_ISDIR(info.st_mode)) count += walk(fd, entry->d_name);
  }
  closedir(directory);
  return count;
}

int main(int argc, char **argv) {
  /* As init, told by the kernel's command line: what follows "--" there would not do, QEMU appends its devices. */
  const char *init = getenv("p9bench");
  const char *directory = init ? init : argv[argc - 1];
  const char *what = init ? getenv("p9what") : argv[1];
  if (init) {
    mkdir("/proc", 0755);
    mkdir(directory, 0755);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0) die("proc");
    if (mount("data", directory, "9p", MS_RDONLY,
              "trans=virtio,version=9p2000.L,msize=512000,access=client,cache=mmap") != 0) {
      die("mount");
    }
  }
  if (chdir(directory) != 0) die(directory);
  uint64_t start = now();
  uint64_t amount = strcmp(what, "read") == 0 ? read_all("big") : walk(AT_FDCWD, "tree");
  uint64_t time = now() - start;
  printf("p9bench %s %llu %llu\n", what, (unsigned long long)time, (unsigned long long)amount);
  fflush(stdout);
  if (init) reboot(RB_AUTOBOOT);
  return 0;
}
