#include "rootfs/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "rootfs/agent.h"

#define NEW_ROOT "/root" /* a directory of the initramfs */
#define STAGE "/stage"   /* another one */
#define PATH_LIMIT 4096

/*
 * The initramfs, which lies below the container's root and is reached by this fd alone: generated
 * files are kept in it, and volumes that are one file are mounted aside in it.
 */
static int initramfs = -1;

int make_directories(const char* path) {
  char part[PATH_LIMIT];
  size_t length = strlen(path);
  if (length >= sizeof part) return errno = ENAMETOOLONG, -1;
  memcpy(part, path, length + 1);
  for (size_t i = 1; i <= length; i++) {
    if (part[i] != '/' && part[i] != 0) continue;
    char saved = part[i];
    part[i] = 0;
    if (mkdir(part, 0755) != 0 && errno != EEXIST) return -1;
    part[i] = saved;
  }
  /* What exists may be a file. */
  struct stat status;
  if (stat(path, &status) != 0) return -1;
  return S_ISDIR(status.st_mode) ? 0 : (errno = ENOTDIR, -1);
}

static int make_file(const char* path) {
  char parent[PATH_LIMIT];
  size_t length = (size_t)(strrchr(path, '/') - path);
  memcpy(parent, path, length);
  parent[length] = 0;
  if (length > 0 && make_directories(parent) != 0) return -1;
  int fd = open(path, O_CREAT | O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0644);
  return fd < 0 ? -1 : close(fd);
}

static _Noreturn void mount_failed(const char* source, const char* target, int number) {
  FAIL(EXIT_SETUP_FAILED, "error mounting \"", source, "\" to rootfs at \"", target,
       "\": ", error_text(number));
}

/* mount(2), which makes a missing mount point: most images have all of them, so it tries to mount
 * first. */
static void mount_at(const char* type, const char* source, const char* target, unsigned long flags,
                     const char* data) {
  if (mount(source, target, type, flags, data) == 0) return;
  if (errno != ENOENT || make_directories(target) != 0 ||
      mount(source, target, type, flags, data) != 0)
    mount_failed(source, target, errno);
}

/* Mounts a detached tree on `target`, which is made where it is missing. */
static void move_tree(int tree, const char* target, int (*make)(const char* path)) {
  unsigned int flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, flags) != 0 &&
      (errno != ENOENT || make(target) != 0 ||
       syscall(SYS_move_mount, tree, "", AT_FDCWD, target, flags) != 0))
    mount_failed(target, target, errno);
}

/* Bind-mounts the file `name` of the initramfs on `target`, which is made where it is missing. */
static void bind_file(const char* name, const char* target) {
  int tree = (int)syscall(SYS_open_tree, initramfs, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0) mount_failed(name, target, errno);
  move_tree(tree, target, make_file);
  close(tree);
}

/* "m0", "m1", ...: names in the initramfs. Room for 12 bytes. */
static void make_name(char letter, size_t number, char* name) {
  char digits[10];
  size_t count = 0;
  do digits[count++] = (char)('0' + number % 10);
  while ((number /= 10) != 0 && count < sizeof digits);
  *name++ = letter;
  while (count > 0) *name++ = digits[--count];
  *name = 0;
}

void mount_root(const struct spec* spec) {
  initramfs = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (mount(spec->root_source, NEW_ROOT, spec->root_type, 0, spec->root_data) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot mount the root file system (", spec->root_type, ", ",
         spec->root_source, "): ", error_text(errno));
  stamp(CLEARVM_STAMP_ROOT);
  /* The new root is moved onto the old one, not only chrooted into: the kernel refuses user
     namespaces to processes whose root is not their mount namespace's. */
  if (chdir(NEW_ROOT) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot enter the root file system: ", error_text(errno));
}

static void make_device(const char* path, unsigned int major, unsigned int minor) {
  if (mknod(path, S_IFCHR | 0666, makedev(major, minor)) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot make ", path, ": ", error_text(errno));
}

static void make_link(const char* target, const char* path) {
  if (symlink(target, path) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot make ", path, ": ", error_text(errno));
}

static void make_directory(const char* path) {
  if (mkdir(path, 0755) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot make ", path, ": ", error_text(errno));
}

/* Kernels without it are none of ours. */
static void set_parameter(const char* path, const char* value) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t length = (ssize_t)strlen(value);
  if (write(fd, value, (size_t)length) != length)
    FAIL(EXIT_SETUP_FAILED, "cannot set ", path, ": ", error_text(errno));
  close(fd);
}

/* What is mounted in every container, ready to be moved into its root. */
static struct {
  const char* target;
  int tree;
} builtin[] = {{"/proc", -1}, {"/sys", -1}, {"/dev", -1}};
#define BUILTIN_COUNT (sizeof builtin / sizeof *builtin)

void mount_prepare(void) {
  const unsigned long safe = MS_NOSUID | MS_NOEXEC | MS_NODEV;
  make_directory(STAGE);
  if (chdir(STAGE) != 0) FAIL(EXIT_SETUP_FAILED, "cannot enter " STAGE);
  for (size_t i = 0; i < BUILTIN_COUNT; i++) make_directory(builtin[i].target + 1);
  /* As docker mounts them, but for cgroups, which may be written: they are this VM's own. What is
     to be hidden of /proc, the spec says (mount_finish). */
  mount_at("proc", "proc", "proc", safe, NULL);
  mount_at("sysfs", "sysfs", "sys", safe | MS_RDONLY, NULL);
  mount_at("cgroup2", "cgroup", "sys/fs/cgroup", safe, "nsdelegate");
  mount_at("tmpfs", "tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");

  /* At the point of a snapshot init has all processors (rootfs/renew.c), and is away from them for
     as long as the snapshot takes: the kernel is not to count that as time that it has run. */
  set_parameter("proc/sys/kernel/sched_rt_runtime_us", "-1");
  /* To see whether memory is worth compacting before somebody needs it, the kernel would wake an
     idle VM twice a second. */
  set_parameter("proc/sys/vm/compaction_proactiveness", "0");

  make_device("dev/null", 1, 3);
  make_device("dev/zero", 1, 5);
  make_device("dev/full", 1, 7);
  make_device("dev/random", 1, 8);
  make_device("dev/urandom", 1, 9);
  make_device("dev/tty", 5, 0);
  make_link("/proc/self/fd", "dev/fd");
  make_link("/proc/self/fd/0", "dev/stdin");
  make_link("/proc/self/fd/1", "dev/stdout");
  make_link("/proc/self/fd/2", "dev/stderr");
  make_link("/proc/kcore", "dev/core");
  make_link("pts/ptmx", "dev/ptmx");

  make_directory("dev/pts");
  make_directory("dev/shm");
  make_directory("dev/mqueue");
  mount_at("devpts", "devpts", "dev/pts", MS_NOSUID | MS_NOEXEC,
           "newinstance,ptmxmode=0666,mode=0620,gid=5");
  mount_at("tmpfs", "shm", "dev/shm", safe, "mode=1777,size=65536k");
  mount_at("mqueue", "mqueue", "dev/mqueue", safe, NULL);

  /* As trees of their own: they then appear behind the root in /proc/mounts, where everybody
     expects them. */
  for (size_t i = 0; i < BUILTIN_COUNT; i++) {
    const char* name = builtin[i].target + 1;
    builtin[i].tree = (int)syscall(SYS_open_tree, AT_FDCWD, name,
                                   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (builtin[i].tree < 0 || umount2(name, MNT_DETACH) != 0)
      mount_failed(name, builtin[i].target, errno);
  }
  if (chdir("/") != 0) FAIL(EXIT_SETUP_FAILED, "cannot leave " STAGE);
}

void mount_builtin(void) {
  for (size_t i = 0; i < BUILTIN_COUNT; i++) {
    move_tree(builtin[i].tree, builtin[i].target, make_directories);
    close(builtin[i].tree);
  }
}

static void mount_volume(const struct spec_mount* volume, size_t number) {
  if ((volume->options & CLEARVM_MOUNT_FILE) == 0) {
    mount_at(volume->type, volume->source, volume->target, volume->flags, volume->data);
    /* A bind mount takes its flags by a second call alone. */
    if ((volume->flags & MS_BIND) != 0 &&
        (volume->flags & ~(unsigned long)(MS_BIND | MS_REC)) != 0 &&
        mount(NULL, volume->target, NULL, volume->flags | MS_REMOUNT, NULL) != 0)
      mount_failed(volume->source, volume->target, errno);
    return;
  }
  char name[32];
  make_name('m', number, name);
  if (fchdir(initramfs) != 0 || mkdir(name, 0700) != 0 ||
      mount(volume->source, name, volume->type, volume->flags, volume->data) != 0)
    mount_failed(volume->source, volume->target, errno);
  strcat(name, "/file");
  bind_file(name, volume->target);
  if (chdir("/") != 0) mount_failed(volume->source, volume->target, errno);
}

void mount_volumes(const struct spec* spec) {
  for (size_t i = 0; i < spec->mount_count; i++) mount_volume(&spec->mounts[i], i);
}

static void write_whole(int fd, const struct spec_file* file) {
  for (size_t at = 0; at < file->length;) {
    ssize_t written = write(fd, file->content + at, file->length - at);
    if (written <= 0) FAIL(EXIT_SETUP_FAILED, "cannot write ", file->path, ": ", error_text(errno));
    at += (size_t)written;
  }
}

void mount_files(const struct spec* spec) {
  for (size_t i = 0; i < spec->file_count; i++) {
    char name[32];
    make_name('f', i, name);
    int fd = openat(initramfs, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, spec->files[i].mode);
    if (fd < 0)
      FAIL(EXIT_SETUP_FAILED, "cannot make ", spec->files[i].path, ": ", error_text(errno));
    write_whole(fd, &spec->files[i]);
    close(fd);
    bind_file(name, spec->files[i].path);
  }
}

void mount_renew_files(const struct spec* spec) {
  for (size_t i = 0; i < spec->file_count; i++) {
    char name[32];
    make_name('f', i, name);
    int fd = openat(initramfs, name, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd < 0) continue;
    write_whole(fd, &spec->files[i]);
    close(fd);
  }
}

void mount_boot_id(const char* text, size_t length) {
  static const char target[] = "/proc/sys/kernel/random/boot_id";
  int fd = openat(initramfs, "boot_id", O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0444);
  if (fd < 0) return;
  bool written = write(fd, text, length) == (ssize_t)length;
  close(fd);
  static bool mounted;
  if (!written || mounted) return;
  int tree = (int)syscall(SYS_open_tree, initramfs, "boot_id", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  mounted = tree >= 0 &&
            syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) == 0;
  if (tree >= 0) close(tree);
}

void mount_console(const char* terminal) {
  if (make_file("/dev/console") != 0 || mount(terminal, "/dev/console", NULL, MS_BIND, NULL) != 0)
    mount_failed(terminal, "/dev/console", errno);
}

/* Both as runc does it: what is not there needs neither. */
static void mask(const char* path) {
  if (mount("/dev/null", path, NULL, MS_BIND, NULL) == 0 || errno == ENOENT) return;
  if (errno != ENOTDIR || mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0k") != 0)
    mount_failed("/dev/null", path, errno);
}

static void make_readonly(const char* path) {
  const unsigned long flags =
      MS_NOSUID | MS_NODEV | MS_NOEXEC; /* as of the file system around it */
  if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) != 0) {
    if (errno == ENOENT) return;
    mount_failed(path, path, errno);
  }
  if (mount(NULL, path, NULL, flags | MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) != 0)
    mount_failed(path, path, errno);
}

void mount_finish(const struct spec* spec) {
  for (size_t i = 0; i < spec->masked_count; i++) mask(spec->masked[i]);
  for (size_t i = 0; i < spec->readonly_count; i++) make_readonly(spec->readonly[i]);
  if ((spec->flags & CLEARVM_FLAG_READONLY_ROOT) != 0 &&
      mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) != 0)
    mount_failed(spec->root_source, "/", errno);
}
