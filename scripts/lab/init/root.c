// The lab's root file system: the build machine's own under a tmpfs, or files in the lab's memory.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lab.h"

// mkdir -p, silently: what fails here shows at the mount that follows.
static void MakeDirs(const char* path) {
  char copy[4096];
  snprintf(copy, sizeof copy, "%s", path);
  for (char* slash = copy + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
    *slash = '\0';
    mkdir(copy, 0755);
    *slash = '/';
  }
  mkdir(copy, 0755);
}

static void Mount(const char* source, const char* target, const char* type, unsigned long flags,
                  const char* data) {
  MakeDirs(target);
  if (mount(source, target, type, flags, data) != 0) {
    Die("cannot mount %s (%s) on %s: %s", source, type ? type : "bind", target, strerror(errno));
  }
}

// For what a small kernel may lack, and a command that needs it will miss by name.
static void TryMount(const char* type, const char* target, unsigned long flags, const char* data) {
  MakeDirs(target);
  mount(type, target, type, flags, data);
}

// Writes `text` to a file that may not be there, as files of /proc and /sys may not.
static void WriteFile(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, text, strlen(text)) < 0) {
    // What this kernel has not is missed, by name, by the command that needs it.
  }
  close(fd);
}

static void LoadModules(void) {
  FILE* list = fopen("/lab/modules/order", "re");
  if (list == NULL) return;
  char name[256];
  while (fgets(name, sizeof name, list) != NULL) {
    name[strcspn(name, "\n")] = '\0';
    char path[512];
    snprintf(path, sizeof path, "/lab/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) {
      fprintf(stderr, "lab init: module %s: %m\n", name);
    }
    if (fd >= 0) close(fd);
    unlink(path);
  }
  fclose(list);
}

static void LoopbackUp(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
  ioctl(fd, SIOCSIFFLAGS, &request);
  close(fd);
}

// Enters `root` so that it is the mount namespace's root, not a chroot: the kernel refuses user
// namespaces to chrooted processes and pivot_root to processes on the initramfs.
static void EnterRoot(const char* root) {
  if (chdir(root) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 ||
      chdir("/") != 0) {
    Die("cannot enter the root file system: %s", strerror(errno));
  }
}

static void MountKernelFileSystems(void) {
  Mount("proc", "/proc", "proc", 0, NULL);
  Mount("sysfs", "/sys", "sysfs", 0, NULL);
  Mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  TryMount("devpts", "/dev/pts", 0, "gid=5,mode=620,ptmxmode=666");
  TryMount("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
  TryMount("mqueue", "/dev/mqueue", 0, NULL);
  // favordynmods: without it the start of a thread of KVM's waits 4 ms and more for an RCU grace
  // period at each KVM_CREATE_VM, and runc and crun wait as they move a process (docs/lab.md).
  TryMount("cgroup2", "/sys/fs/cgroup", 0, "favordynmods");
  TryMount("debugfs", "/sys/kernel/debug", 0, NULL);
  TryMount("tracefs", "/sys/kernel/tracing", 0, NULL);
  TryMount("securityfs", "/sys/kernel/security", 0, NULL);
  symlink("/proc/self/fd", "/dev/fd");
  symlink("/proc/self/fd/0", "/dev/stdin");
  symlink("/proc/self/fd/1", "/dev/stdout");
  symlink("/proc/self/fd/2", "/dev/stderr");
}

// Gives a file, or moves a directory, its other name.
static void Link(const char* source, const char* target) {
  char parent[4096];
  snprintf(parent, sizeof parent, "%s", target);
  *strrchr(parent, '/') = '\0';
  if (parent[0] != '\0') MakeDirs(parent);
  unlink(target);
  if (link(source, target) != 0 && rename(source, target) != 0) {
    Die("cannot link %s to %s: %s", source, target, strerror(errno));
  }
}

static void SetUpMachineRoot(void) {
  Mount("root", "/lab/lower", "9p", MS_RDONLY,
        "trans=virtio,version=9p2000.L,msize=512000,cache=loose");
  Mount("tmpfs", "/lab/over", "tmpfs", 0, "size=75%,mode=755");
  MakeDirs("/lab/over/upper");
  MakeDirs("/lab/over/work");
  Mount("overlay", "/lab/root", "overlay", 0,
        "lowerdir=/lab/lower,upperdir=/lab/over/upper,workdir=/lab/over/work");
  EnterRoot("/lab/root");
  MountKernelFileSystems();
}

// Covers what a machine keeps for itself. Binds come before it: their sources may lie below.
static void MountTemporary(void) {
  Mount("tmpfs", "/tmp", "tmpfs", 0, "size=75%,mode=1777");
  Mount("tmpfs", "/run", "tmpfs", 0, "mode=755");
  Mount("tmpfs", "/var/lib/clearvm", "tmpfs", 0, "size=75%,mode=755");
}

static void SetUpMemoryRoot(void) {
  // The caller's files lie in the initramfs, which is a tmpfs. Mounted once more over itself it is
  // a mount with a parent, which pivot_root asks for, and nothing has to be copied.
  Mount("/", "/lab/root", NULL, MS_BIND, NULL);
  EnterRoot("/lab/root");
  MountKernelFileSystems();
  MakeDirs("/run");
  MakeDirs("/tmp");
  chmod("/tmp", 01777);
  MakeDirs("/var/lib/clearvm");
  MakeDirs("/root");
}

void Setup(const char* at, size_t size) {
  const char* end = at + size;
  for (const char* word; (word = NextString(&at, end)) != NULL;) {
    if (strcmp(word, "root") == 0) {
      if (strcmp(NeedString(&at, end), "machine") == 0) {
        SetUpMachineRoot();
      } else {
        SetUpMemoryRoot();
      }
    } else if (strcmp(word, "temporary") == 0) {
      MountTemporary();
    } else if (strcmp(word, "share") == 0) {
      const char* tag = NeedString(&at, end);
      // mmap: nothing is cached but what is mapped, so that each side sees at once what the other
      // writes. loose would be faster, but its write-back ends in an fsync for each file on the
      // host.
      Mount(tag, NeedString(&at, end), "9p", 0,
            "trans=virtio,version=9p2000.L,msize=512000,cache=mmap");
    } else if (strcmp(word, "bind") == 0) {
      const char* source = NeedString(&at, end);
      Mount(source, NeedString(&at, end), NULL, MS_BIND, NULL);
    } else if (strcmp(word, "link") == 0) {
      const char* source = NeedString(&at, end);
      Link(source, NeedString(&at, end));
    } else {
      Die("malformed request: %s", word);
    }
  }
  sethostname("lab", 3);
  LoopbackUp();
  // One by one: a kernel that lacks one refuses the whole line.
  for (const char* const* name =
           (const char* const[]){"cpu", "cpuset", "io", "memory", "pids", NULL};
       *name != NULL; name++) {
    char text[16];
    snprintf(text, sizeof text, "+%s", *name);
    WriteFile("/sys/fs/cgroup/cgroup.subtree_control", text);
  }
  WriteFile("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
  struct rlimit files = {1 << 20, 1 << 20};
  setrlimit(RLIMIT_NOFILE, &files);
  Send(0, kReady, NULL, 0);
}

void EarlyBoot(void) {
  Mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  // The initramfs holds no /dev/console, so the kernel has started us without stdio.
  int console = open("/dev/console", O_RDWR | O_NOCTTY);
  if (console >= 0) {
    for (int i = 0; i < 3; i++) dup2(console, i);
    if (console > 2) close(console);
  }
  LoadModules();
}
