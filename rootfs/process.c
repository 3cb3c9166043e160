#include "rootfs/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rootfs/agent.h"
#include "rootfs/builtin.h"

#define ID_FILE_MAX (16u << 20) /* bytes of /etc/passwd and /etc/group that are read */
#define PATH_LIMIT 4096
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Reads a whole file. One that does not exist is an empty one: images without /etc/passwd are
 * common. Returns 0, or -1 with a failure noted; `file` is to be freed either way. */
static int read_file(const char* path, struct text_file* file) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return 0;
  size_t room = 0;
  int result = 0;
  for (;;) {
    if (file->length == room) {
      room = room == 0 ? 8192 : room * 2;
      char* data = room > ID_FILE_MAX ? NULL : realloc((char*)file->data, room);
      if (data == NULL) {
        result = FAILED(EXIT_SETUP_FAILED, path, " is too large");
        break;
      }
      file->data = data;
    }
    ssize_t got = read(fd, (char*)file->data + file->length, room - file->length);
    if (got < 0) result = FAILED(EXIT_SETUP_FAILED, "cannot read ", path, ": ", error_text(errno));
    if (got <= 0) break;
    file->length += (size_t)got;
  }
  close(fd);
  return result;
}

static int identify(const struct spec* spec, struct text_file passwd, struct text_file group,
                    struct identity* identity) {
  char error[512];
  if (identity_find(spec->user, passwd, group, identity, error, sizeof error) != 0)
    return FAILED(EXIT_SETUP_FAILED, error);
  for (size_t i = 0; i < spec->group_count; i++)
    if (identity_add_group(spec->groups[i], group, identity, error, sizeof error) != 0)
      return FAILED(EXIT_SETUP_FAILED, error);
  return 0;
}

int process_identify(struct spec* spec, struct identity* identity) {
  struct text_file passwd = {NULL, 0}, group = {NULL, 0};
  int result = read_file("/etc/passwd", &passwd);
  if (result == 0) result = read_file("/etc/group", &group);
  if (result == 0) result = identify(spec, passwd, group, identity);
  free((char*)passwd.data);
  free((char*)group.data);
  if (result == 0 && env_get(spec->env, "HOME") == NULL) {
    static char home[sizeof "HOME=" + IDENTITY_HOME_MAX] = "HOME=";
    strcpy(home + 5, identity->home);
    spec->env[spec->env_count++] = home;
  }
  return result;
}

/*
 * The child is made by vfork, so it shares this memory with init, which goes on only when the child
 * has executed its program or ended: what it notes is noted here.
 */
static bool child_failed;

#define CHILD_FAIL(code, ...)  \
  do {                         \
    FAILED(code, __VA_ARGS__); \
    child_failed = true;       \
    _exit(1);                  \
  } while (0)

static void set_capabilities(const struct spec_caps* caps) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++)
    data[i] =
        (struct __user_cap_data_struct){.effective = (uint32_t)(caps->effective >> (32 * i)),
                                        .permitted = (uint32_t)(caps->permitted >> (32 * i)),
                                        .inheritable = (uint32_t)(caps->inheritable >> (32 * i))};
  if (syscall(SYS_capset, &header, data) != 0)
    CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set the capabilities: ", error_text(errno));
  for (int i = 0; i < 64; i++)
    if ((caps->ambient >> i & 1) != 0 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) != 0)
      CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set the ambient capabilities: ", error_text(errno));
}

/* Takes on the user and gives up what the process must not have, in the order that the kernel's
 * rules ask for. */
static void set_privileges(const struct spec* spec, const struct identity* identity) {
  if (spec->has_caps) {
    /* EINVAL: past the last capability that this kernel knows. */
    for (int i = 0; i < 64; i++)
      if ((spec->caps.bounding >> i & 1) == 0 && prctl(PR_CAPBSET_DROP, i) != 0) {
        if (errno == EINVAL) break;
        CHILD_FAIL(EXIT_SETUP_FAILED, "cannot drop capabilities: ", error_text(errno));
      }
    if (prctl(PR_SET_KEEPCAPS, 1) != 0)
      CHILD_FAIL(EXIT_SETUP_FAILED, "cannot keep capabilities: ", error_text(errno));
  }
  /* The plain system calls: the C library's functions are for threads, and this is a vforked child.
   */
  if (syscall(SYS_setgroups, identity->group_count, identity->groups) != 0 ||
      syscall(SYS_setresgid, identity->gid, identity->gid, identity->gid) != 0 ||
      syscall(SYS_setresuid, identity->uid, identity->uid, identity->uid) != 0)
    CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set the user and groups: ", error_text(errno));
  if (spec->has_caps) set_capabilities(&spec->caps);
  if ((spec->flags & CLEARVM_FLAG_NO_NEW_PRIVS) != 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set no_new_privs: ", error_text(errno));
}

/* Reports why `path` could not be executed, in the words of docker and runc. */
static _Noreturn void cannot_execute(const char* path, int number) {
  struct stat status;
  bool there = stat(path, &status) == 0;
  if (!there)
    CHILD_FAIL(EXIT_NOT_FOUND, "exec: \"", path, "\": stat ", path, ": ", error_text(number));
  if (S_ISDIR(status.st_mode)) number = EISDIR;
  if (number == EACCES || number == EISDIR)
    CHILD_FAIL(EXIT_CANNOT_EXECUTE, "exec: \"", path, "\": ", error_text(number));
  /* The file is there, so what is not is its interpreter. */
  bool missing = number == ENOENT || number == ENOTDIR;
  CHILD_FAIL(missing ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE, "exec ", path, ": ",
             error_text(number));
}

/*
 * Executes args[0], searched for in the container's PATH. It tries each directory without looking
 * first: a look is a round trip to the host. What is not executable is passed over, as docker does.
 */
static _Noreturn void execute(const struct spec* spec) {
  static char candidate[2 * PATH_LIMIT];
  const char* name = spec->args[0];
  size_t name_length = strlen(name);
  if (strchr(name, '/') != NULL) {
    execve(name, spec->args, spec->env);
    cannot_execute(name, errno);
  }
  const char* path = env_get(spec->env, "PATH");
  if (path == NULL) path = DEFAULT_PATH;
  bool more = name_length > 0 && name_length < PATH_LIMIT;
  while (more) {
    size_t length = strcspn(path, ":");
    if (length < PATH_LIMIT) {
      memcpy(candidate, path, length);
      candidate[length] = '/';
      /* An empty element is the working directory. */
      memcpy(candidate + (length == 0 ? 0 : length + 1), name, name_length + 1);
      execve(candidate, spec->args, spec->env);
      int number = errno;
      struct stat status;
      bool missing = number == ENOENT || number == ENOTDIR;
      if (number != EACCES && !(missing && stat(candidate, &status) != 0))
        cannot_execute(candidate, number);
    }
    more = path[length] == ':';
    path += length + 1;
  }
  CHILD_FAIL(EXIT_NOT_FOUND, "exec: \"", name, "\": executable file not found in $PATH");
}

/* In the child: its session, its stdio and its signals. */
static void set_up(const int stdio[3]) {
  setsid();
  /* init's own fds 0 to 2 are the console: none of `stdio` is one of them. All its others close on
   * exec. */
  for (int i = 0; i < 3; i++)
    if (dup2(stdio[i], i) < 0)
      CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set up stdio: ", error_text(errno));
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The cgroup.procs that each process writes itself into; -1: none. */
static int limited_group = -1;
/* What each process writes as its oom_score_adj; 0: that of init. */
static int32_t oom_score;

static int write_text(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  ssize_t length = (ssize_t)strlen(text);
  int result = fd >= 0 && write(fd, text, (size_t)length) == length ? 0 : -1;
  if (fd >= 0) close(fd);
  return result;
}

/* Decimal digits, at the end of `text`. */
static char* format_number(int64_t number, char text[24]) {
  char* at = text + 23;
  *at = 0;
  uint64_t rest = (uint64_t)(number < 0 ? -number : number);
  do *--at = (char)('0' + rest % 10);
  while ((rest /= 10) > 0);
  if (number < 0) *--at = '-';
  return at;
}

int process_limit(const struct spec* spec) {
#define CGROUPS "/sys/fs/cgroup/"
  char digits[24];
  oom_score = spec->oom_score;
  if (spec->pids == 0) return 0;
  if (write_text(CGROUPS "cgroup.subtree_control", "+pids") != 0 ||
      mkdir(CGROUPS "container", 0755) != 0 ||
      write_text(CGROUPS "container/pids.max", format_number(spec->pids, digits)) != 0 ||
      (limited_group = open(CGROUPS "container/cgroup.procs", O_WRONLY | O_CLOEXEC)) < 0)
    return FAILED(EXIT_SETUP_FAILED, "cannot limit the number of processes: ", error_text(errno));
  return 0;
}

static _Noreturn void child(uint32_t number, const struct spec* spec,
                            const struct identity* identity, const int stdio[3]) {
  set_up(stdio);
  if (limited_group >= 0 && write(limited_group, "0", 1) != 1)
    CHILD_FAIL(EXIT_SETUP_FAILED, "cannot join the control group: ", error_text(errno));
  if ((spec->flags & CLEARVM_FLAG_TERMINAL) != 0 && ioctl(0, TIOCSCTTY, 0) != 0)
    CHILD_FAIL(EXIT_SETUP_FAILED, "cannot take the terminal: ", error_text(errno));
  for (size_t i = 0; i < spec->rlimit_count; i++) {
    struct rlimit limit = {spec->rlimits[i].soft, spec->rlimits[i].hard};
    if (setrlimit((int)spec->rlimits[i].resource, &limit) != 0)
      CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set the resource limits: ", error_text(errno));
  }
  char digits[24];
  /* It is a vforked child's own: init, with whom it shares its memory, keeps its. */
  if (oom_score != 0 &&
      write_text("/proc/self/oom_score_adj", format_number(oom_score, digits)) != 0)
    CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set oom_score_adj: ", error_text(errno));
  set_privileges(spec, identity);
  umask(022);
  if (number == 0) {
    stamp(CLEARVM_STAMP_EXEC);
    /* As late as this: on another processor than init the kernel's caches are empty, and each of
     * what it allocates to get here would be a page that is touched. */
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    sched_setaffinity(0, sizeof all, &all);
  }
  stamps_close();
  execute(spec);
}

pid_t process_start(uint32_t number, const struct spec* spec, const struct identity* identity,
                    const int stdio[3]) {
  child_failed = false;
  pid_t pid;
  if ((spec->flags & CLEARVM_FLAG_BUILTIN) != 0) {
    pid = fork(); /* it goes on for as long as its reader lets it */
    if (pid == 0) {
      set_up(stdio);
      _exit(builtin_run(spec->args[0]));
    }
  } else {
    pid = vfork();
    if (pid == 0) child(number, spec, identity, stdio);
  }
  if (pid < 0) return FAILED(EXIT_SETUP_FAILED, "cannot make a process: ", error_text(errno));
  if (!child_failed) return pid;
  waitpid(pid, NULL, 0);
  return -1;
}
