/*
 * The workload of the file-system benchmarks, the same for ClearVM (as a container's command) and for QEMU (as the
 * guest's init, with "init" as first argument: then it mounts the 9p export "data" itself, and powers off).
 *
 *   p9bench [init] DIRECTORY    reads DIRECTORY/big from end to end, and walks all of DIRECTORY/tree as find does;
 *                               each once to warm up and once timed
 *
 * Prints "p9bench read NS BYTES" and "p9bench find NS ENTRIES": nanoseconds of the guest's CLOCK_MONOTONIC.
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

/* Drops what the guest remembers of files and names, so that the timed pass asks the server again. */
static void forget(void) {
  int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
  if (fd < 0 || write(fd, "3", 1) != 1) die("drop_caches");
  close(fd);
}

int main(int argc, char **argv) {
  const int init = argc > 2 && !strcmp(argv[1], "init");
  const char *directory = argv[argc - 1];
  if (argc < 2) return 1;
  if (init) {
    mkdir("/proc", 0755);
    mkdir(directory, 0755);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0) die("proc");
    if (mount("data", directory, "9p", MS_RDONLY,
              "trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=client") != 0) {
      die("mount");
    }
  }
  if (chdir(directory) != 0) die(directory);
  for (int pass = 0; pass < 2; pass++) {
    forget();
    uint64_t start = now();
    uint64_t bytes = read_all("big");
    uint64_t read_time = now() - start;
    forget();
    start = now();
    uint64_t entries = walk(AT_FDCWD, "tree");
    uint64_t find_time = now() - start;
    if (pass == 0) continue;
    printf("p9bench read %llu %llu\n", (unsigned long long)read_time, (unsigned long long)bytes);
    printf("p9bench find %llu %llu\n", (unsigned long long)find_time, (unsigned long long)entries);
  }
  fflush(stdout);
  if (init) reboot(RB_AUTOBOOT);
  return 0;
}
