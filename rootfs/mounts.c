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

/* Bind-mounts the file `name` of the initramfs on `target`, which is made where it is missing. */
static void bind_file(const char* name, const char* target) {
  int tree = (int)syscall(SYS_open_tree, initramfs, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0) mount_failed(name, target, errno);
  unsigned int flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, flags) != 0 &&
      (errno != ENOENT || make_file(target) != 0 ||
       syscall(SYS_move_mount, tree, "", AT_FDCWD, target, flags) != 0))
    mount_failed(name, target, errno);
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

void mount_builtin(void) {
  const unsigned long safe = MS_NOSUID | MS_NOEXEC | MS_NODEV;
  /* As docker mounts them, with two differences. /proc and cgroups may be written, nothing in them
     is masked: they show this VM's own kernel, so there is no neighbour to protect, and sysctls and
     nested containers work. */
  mount_at("proc", "proc", "/proc", safe, NULL);
  mount_at("sysfs", "sysfs", "/sys", safe | MS_RDONLY, NULL);
  mount_at("cgroup2", "cgroup", "/sys/fs/cgroup", safe, "nsdelegate");
  mount_at("tmpfs", "tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");

  make_device("/dev/null", 1, 3);
  make_device("/dev/zero", 1, 5);
  make_device("/dev/full", 1, 7);
  make_device("/dev/random", 1, 8);
  make_device("/dev/urandom", 1, 9);
  make_device("/dev/tty", 5, 0);
  make_link("/proc/self/fd", "/dev/fd");
  make_link("/proc/self/fd/0", "/dev/stdin");
  make_link("/proc/self/fd/1", "/dev/stdout");
  make_link("/proc/self/fd/2", "/dev/stderr");
  make_link("/proc/kcore", "/dev/core");
  make_link("pts/ptmx", "/dev/ptmx");

  static const char* const directories[] = {"/dev/pts", "/dev/shm", "/dev/mqueue"};
  for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
    if (mkdir(directories[i], 0755) != 0) FAIL(EXIT_SETUP_FAILED, "cannot make ", directories[i]);
  mount_at("devpts", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC,
           "newinstance,ptmxmode=0666,mode=0620,gid=5");
  mount_at("tmpfs", "shm", "/dev/shm", safe, "mode=1777,size=65536k");
  mount_at("mqueue", "mqueue", "/dev/mqueue", safe, NULL);
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

void mount_console(const char* terminal) {
  if (make_file("/dev/console") != 0 || mount(terminal, "/dev/console", NULL, MS_BIND, NULL) != 0)
    mount_failed(terminal, "/dev/console", errno);
}

void mount_finish(const struct spec* spec) {
  close(initramfs);
  if ((spec->flags & CLEARVM_FLAG_READONLY_ROOT) != 0 &&
      mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) != 0)
    mount_failed(spec->root_source, "/", errno);
}
