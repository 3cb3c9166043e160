#include "rootfs/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
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

#define ID_FILE_MAX (16u << 20) /* bytes of /etc/passwd and /etc/group that are read */
#define PATH_LIMIT 4096
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Reads a whole file. One that does not exist is an empty one: images without /etc/passwd are
 * common. */
static struct text_file read_file(const char* path) {
  struct text_file file = {NULL, 0};
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return file;
  size_t room = 0;
  char* data = NULL;
  for (;;) {
    if (file.length == room) {
      room = room == 0 ? 8192 : room * 2;
      data = room > ID_FILE_MAX ? NULL : realloc(data, room);
      if (data == NULL) FAIL(EXIT_SETUP_FAILED, path, " is too large");
    }
    ssize_t got = read(fd, data + file.length, room - file.length);
    if (got < 0) FAIL(EXIT_SETUP_FAILED, "cannot read ", path, ": ", error_text(errno));
    if (got == 0) break;
    file.length += (size_t)got;
  }
  close(fd);
  file.data = data;
  return file;
}

void process_identify(struct spec* spec, struct identity* identity) {
  char error[512];
  struct text_file passwd = read_file("/etc/passwd"), group = read_file("/etc/group");
  if (identity_find(spec->user, passwd, group, identity, error, sizeof error) != 0)
    FAIL(EXIT_SETUP_FAILED, error);
  for (size_t i = 0; i < spec->group_count; i++)
    if (identity_add_group(spec->groups[i], group, identity, error, sizeof error) != 0)
      FAIL(EXIT_SETUP_FAILED, error);
  free((char*)passwd.data);
  free((char*)group.data);

  if (env_get(spec->env, "HOME") == NULL) {
    static char home[sizeof "HOME=" + IDENTITY_HOME_MAX] = "HOME=";
    strcpy(home + 5, identity->home);
    spec->env[spec->env_count++] = home;
  }
}

/*
 * How the child's start has failed. The child is made by vfork, so it shares this memory with init,
 * which goes on only when the child has executed its program or ended: no pipe is needed to tell
 * the two apart.
 */
static struct failure {
  uint32_t code;        /* 0: none */
  const char* parts[8]; /* of the message, up to a NULL */
} failure;

static _Noreturn void child_fail_with(uint32_t code, const char* const* parts, size_t size) {
  failure.code = code;
  memcpy(failure.parts, parts, size);
  _exit(1);
}
#define CHILD_FAIL(code, ...)                                               \
  do {                                                                      \
    const char* const parts[] = {__VA_ARGS__, NULL};                        \
    _Static_assert(sizeof parts <= sizeof failure.parts, "too many parts"); \
    child_fail_with(code, parts, sizeof parts);                             \
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

static _Noreturn void child(const struct spec* spec, const struct identity* identity,
                            const int stdio[3]) {
  setsid();
  /* init's own fds 0 to 2 are the console: none of `stdio` is one of them. All its others close on
   * exec. */
  for (int i = 0; i < 3; i++)
    if (dup2(stdio[i], i) < 0)
      CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set up stdio: ", error_text(errno));
  if ((spec->flags & CLEARVM_FLAG_TERMINAL) != 0 && ioctl(0, TIOCSCTTY, 0) != 0)
    CHILD_FAIL(EXIT_SETUP_FAILED, "cannot take the terminal: ", error_text(errno));
  for (size_t i = 0; i < spec->rlimit_count; i++) {
    struct rlimit limit = {spec->rlimits[i].soft, spec->rlimits[i].hard};
    if (setrlimit((int)spec->rlimits[i].resource, &limit) != 0)
      CHILD_FAIL(EXIT_SETUP_FAILED, "cannot set the resource limits: ", error_text(errno));
  }
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  set_privileges(spec, identity);
  umask(022);
  stamp(CLEARVM_STAMP_EXEC);
  stamps_close();
  execute(spec);
}

pid_t process_start(const struct spec* spec, const struct identity* identity, const int stdio[3]) {
  pid_t pid = vfork();
  if (pid == 0) child(spec, identity, stdio);
  if (pid < 0) FAIL(EXIT_SETUP_FAILED, "cannot make a process: ", error_text(errno));
  if (failure.code == 0) return pid;
  waitpid(pid, NULL, 0);
  fail_with(failure.code, failure.parts);
}
