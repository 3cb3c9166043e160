/*
 * The workload of `clearvm bench`: the same static program for every runtime, as a container's
 * command or, with the words of "clearvm_bench=WORD,WORD,..." on the kernel's command line, as the
 * init of a VM without an agent.
 *
 *   ready                   says that it runs, and ends
 *   idle                    says so, and waits
 *   cpu ROUNDS              a loop of so many rounds
 *   io DIRECTORY MIB FILES  writes and reads a file of so many MiB, makes so many small files and
 * walks over them
 *
 * Neighbours, who say that they run, and go on until they are ended, or for LIFETIME:
 *
 *   spin                    uses a CPU
 *   disk DIRECTORY MIB      writes and reads a file of so many MiB
 *   small DIRECTORY         writes a few bytes and has them put on the disk, for ever
 *   forks MAX               makes processes until none can be made; MAX at most, as far as it is
 * ours to say memory MIB              writes to more and more memory, so many MiB at most; begins
 * anew when it is killed
 *
 * Each line that it prints begins with "clearvm-bench"; a figure is "clearvm-bench NAME NANOSECONDS
 * AMOUNT", by CLOCK_MONOTONIC where it runs.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Seconds; nobody may be left with an attacker, even if the benchmark dies. */
#define LIFETIME 600
#define MIB (1u << 20)
#define SMALL_FILE 64
#define PER_DIRECTORY 100
#define MAX_WORDS 6

/* The only thing that a kernel's init has to look at: set where this is one. */
static int is_init;

/* A VM that resets itself is over for most VMMs; "clearvm_poweroff" is for the others. */
__attribute__((noreturn)) static void end(int status) {
  if (is_init) reboot(getenv("clearvm_poweroff") ? RB_POWER_OFF : RB_AUTOBOOT);
  _exit(status);
}

static void say(const char* line) {
  size_t length = strlen(line);
  while (length > 0) {
    ssize_t put = write(1, line, length);
    if (put < 0 && errno != EINTR) end(1);
    if (put > 0) {
      line += put;
      length -= (size_t)put;
    }
  }
}

__attribute__((noreturn)) static void die(const char* what) {
  char line[512];
  snprintf(line, sizeof line, "clearvm-bench error %s: %s\n", what, strerror(errno));
  say(line);
  end(1);
}

static void figure(const char* name, uint64_t nanoseconds, uint64_t amount) {
  char line[128];
  snprintf(line, sizeof line, "clearvm-bench %s %llu %llu\n", name, (unsigned long long)nanoseconds,
           (unsigned long long)amount);
  say(line);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void spin(uint64_t rounds) {
  for (uint64_t i = 0; i < rounds; i++) __asm__ volatile("" ::: "memory");
}

static void cpu(uint64_t rounds) {
  uint64_t start = now();
  spin(rounds);
  figure("cpu", now() - start, rounds);
}

static char buffer[MIB];

static void write_file(const char* name, uint64_t mib) {
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) die(name);
  for (uint64_t i = 0; i < mib; i++) {
    for (size_t done = 0; done < sizeof buffer;) {
      ssize_t put = write(fd, buffer + done, sizeof buffer - done);
      if (put < 0) die(name);
      done += (size_t)put;
    }
  }
  if (fsync(fd) != 0 && errno != EINVAL) die(name);
  /* What is read next is not to come from this kernel's cache. */
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

static uint64_t read_file(const char* name) {
  uint64_t total = 0;
  ssize_t got;
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die(name);
  while ((got = read(fd, buffer, sizeof buffer)) > 0) total += (uint64_t)got;
  if (got < 0) die(name);
  close(fd);
  return total;
}

static void make_files(uint64_t count) {
  char name[64];
  for (uint64_t i = 0; i < count; i++) {
    if (i % PER_DIRECTORY == 0) {
      snprintf(name, sizeof name, "tree/%llu", (unsigned long long)(i / PER_DIRECTORY));
      if (mkdir(name, 0700) != 0) die(name);
    }
    snprintf(name, sizeof name, "tree/%llu/%llu", (unsigned long long)(i / PER_DIRECTORY),
             (unsigned long long)i);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) die(name);
    if (write(fd, buffer, SMALL_FILE) != SMALL_FILE) die(name);
    close(fd);
  }
}

/* What find(1) does; what `removes` is set for is gone afterwards. */
static uint64_t walk(int parent, const char* name, int removes) {
  uint64_t count = 0;
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) die(name);
  DIR* directory = fdopendir(fd);
  if (!directory) die(name);
  struct dirent* entry;
  while ((entry = readdir(directory)) != NULL) {
    struct stat info;
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) die(entry->d_name);
    count++;
    if (S_ISDIR(info.st_mode)) count += walk(fd, entry->d_name, removes);
    if (removes && unlinkat(fd, entry->d_name, S_ISDIR(info.st_mode) ? AT_REMOVEDIR : 0) != 0)
      die(entry->d_name);
  }
  closedir(directory);
  return count;
}

static void enter(const char* directory) {
  if (mkdir(directory, 0700) != 0 && errno != EEXIST) die(directory);
  if (chdir(directory) != 0) die(directory);
}

static void io(const char* directory, uint64_t mib, uint64_t files) {
  enter(directory);
  uint64_t start = now();
  write_file("big", mib);
  figure("write", now() - start, mib * MIB);
  start = now();
  uint64_t bytes = read_file("big");
  figure("read", now() - start, bytes);
  unlink("big");
  if (mkdir("tree", 0700) != 0) die("tree");
  start = now();
  make_files(files);
  figure("create", now() - start, files);
  start = now();
  uint64_t entries = walk(AT_FDCWD, "tree", 0);
  figure("find", now() - start, entries);
  walk(AT_FDCWD, "tree", 1);
  rmdir("tree");
}

static void small_writes(const char* directory) {
  enter(directory);
  int fd = open("small", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) die("small");
  for (uint64_t i = 0;; i++) {
    if (pwrite(fd, buffer, SMALL_FILE, (off_t)(i * SMALL_FILE % MIB)) < 0) die("small");
    fdatasync(fd);
  }
}

static void forks(uint64_t most) {
  uint64_t* count =
      mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (count == MAP_FAILED) die("mmap");
  for (;;) {
    if (__atomic_add_fetch(count, 1, __ATOMIC_RELAXED) <= most) {
      if (fork() >= 0) continue;
    }
    __atomic_sub_fetch(count, 1, __ATOMIC_RELAXED);
    /* As many as there may be: they compete for the CPU, and try again. */
    spin(1000000);
  }
}

static void memory(uint64_t mib) {
  for (;;) {
    pid_t child = fork();
    if (child == 0) {
      for (uint64_t i = 0; i < mib; i++) {
        char* more = malloc(MIB);
        if (more) memset(more, 1, MIB);
      }
      _exit(0);
    }
    if (child > 0)
      waitpid(child, NULL, 0);
    else
      sched_yield();
  }
}

/* A VM without an agent: its init is the workload, and mounts what the workload needs. */
static int become_init(char* words, char** argv) {
  int argc = 1;
  is_init = 1;
  for (char* word = strtok(words, ","); word && argc < MAX_WORDS; word = strtok(NULL, ","))
    argv[argc++] = word;
  mkdir("/volume", 0755);
  if (getenv("clearvm_volume") &&
      mount("volume", "/volume", "9p", 0,
            "trans=virtio,version=9p2000.L,msize=512000,access=client") != 0) {
    die("/volume");
  }
  return argc;
}

/* No signal ends an init that has not asked for it: there a child does. */
static void limit_lifetime(void) {
  if (!is_init) {
    alarm(LIFETIME);
  } else if (fork() == 0) {
    sleep(LIFETIME);
    reboot(RB_AUTOBOOT);
  }
}

int main(int argc, char** argv) {
  char* own[MAX_WORDS + 1] = {argv[0]};
  char* words = getpid() == 1 ? getenv("clearvm_bench") : NULL;
  if (words) {
    argc = become_init(words, own);
    argv = own;
  }
  const char* what = argc > 1 ? argv[1] : "";
  const char* directory = argc > 2 ? argv[2] : ".";
  uint64_t amount = argc > 2 ? strtoull(argv[argc == 3 ? 2 : 3], NULL, 10) : 0;
  say("clearvm-bench ready\n");
  if (!strcmp(what, "ready")) end(0);
  limit_lifetime();
  if (!strcmp(what, "idle")) {
    for (;;) pause();
  } else if (!strcmp(what, "cpu")) {
    cpu(amount);
  } else if (!strcmp(what, "io") && argc > 4) {
    io(directory, amount, strtoull(argv[4], NULL, 10));
  } else if (!strcmp(what, "spin")) {
    for (;;) spin(1000000000);
  } else if (!strcmp(what, "disk")) {
    enter(directory);
    for (;;) {
      write_file("disk", amount);
      read_file("disk");
    }
  } else if (!strcmp(what, "small")) {
    small_writes(directory);
  } else if (!strcmp(what, "forks")) {
    forks(amount);
  } else if (!strcmp(what, "memory")) {
    memory(amount);
  } else {
    errno = EINVAL;
    die(what);
  }
  end(0);
}
