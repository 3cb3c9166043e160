/*
 * The guest's PID 1 and agent: the only program of the initramfs. It makes the VM a container:
 * fetches the spec from the VMM, mounts, starts the one process, carries its stdio, reaps, and
 * reports the exit status.
 *
 * It trusts the VMM, never waits for anything it does not need, and makes few system calls: what it
 * does before the container's process lies on the path of each container's start.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rootfs/agent.h"
#include "rootfs/channels.h"
#include "rootfs/mounts.h"
#include "rootfs/parse_spec.h"
#include "rootfs/parse_users.h"
#include "rootfs/process.h"
#include "rootfs/renew.h"
#include "rootfs/serve.h"

static struct spec spec;
static struct identity identity;
static struct channels channels;

static void raise_loopback(void) {
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) FAIL(EXIT_SETUP_FAILED, "cannot make a socket: ", error_text(errno));
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(fd, SIOCSIFFLAGS, &request) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot raise the loopback interface: ", error_text(errno));
  close(fd);
}

/* Whether the kernel's log, as far back as it goes, has a process killed for want of memory. */
static bool memory_ran_out(void) {
  static char log[1 << 16];
  static const char sign[] = "Out of memory: Killed process ";
  int length = klogctl(3 /* SYSLOG_ACTION_READ_ALL */, log, sizeof log);
  for (int at = 0; at + (int)sizeof sign <= length; at++)
    if (memcmp(log + at, sign, sizeof sign - 1) == 0) return true;
  return false;
}

/* Writes one "name=value" to /proc/sys. As in sysctl(8), dots in the name stand for slashes. */
static void set_sysctl(char* assignment) {
  char path[256] = "/proc/sys/";
  size_t at = strlen(path);
  char* value = strchr(assignment, '=');
  for (char* c = assignment; c < value; c++) {
    if (at + 1 == sizeof path)
      FAIL(EXIT_SETUP_FAILED, "the name of sysctl ", assignment, " is too long");
    path[at++] = *c == '.' ? '/' : *c;
  }
  path[at] = 0;
  value++;
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  ssize_t length = (ssize_t)strlen(value);
  if (fd < 0 || write(fd, value, (size_t)length) != length)
    FAIL(EXIT_SETUP_FAILED, "cannot set sysctl ", assignment, ": ", error_text(errno));
  close(fd);
}

static void set_system(void) {
  if (spec.hostname != NULL && sethostname(spec.hostname, strlen(spec.hostname)) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot set the host name: ", error_text(errno));
  for (size_t i = 0; i < spec.sysctl_count; i++) set_sysctl(spec.sysctls[i]);
  if (process_limit(&spec) != 0) fail();
}

static void enter_working_directory(void) {
  if (chdir(spec.cwd) == 0) return;
  if (errno != ENOENT || make_directories(spec.cwd) != 0 || chdir(spec.cwd) != 0)
    FAIL(EXIT_SETUP_FAILED, "chdir to cwd (\"", spec.cwd, "\") failed: ", error_text(errno));
}

int main(void) {
  stamps_open();
  stamp(CLEARVM_STAMP_INIT);
  /* Where interrupts come (irqaffinity): each answer of a file server would wake another processor
   * otherwise. The container's process has them all (child). */
  cpu_set_t all, first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  sched_getaffinity(0, sizeof all, &all);
  sched_setaffinity(0, sizeof first, &first);
  umask(0);
  serve_prepare();
  mount_prepare();
  raise_loopback();
  renew_prepare();
  agent_connect();
  /* From here on it is a VM of its own, and no template any more. */
  struct clearvm_identity fresh = agent_receive_identity();
  renew_identity(&fresh);
  size_t length;
  uint8_t* tlvs = agent_receive_spec(&length);
  const char* wrong = spec_parse(tlvs, length, SPEC_CONTAINER, &spec);
  if (wrong != NULL) FAIL(EXIT_SETUP_FAILED, "the spec is malformed: ", wrong);

  /* The streams connect while the file systems are mounted. */
  if (channels_connect(&channels, 0, spec.flags) != 0) fail();
  mount_root(&spec);
  mount_builtin();
  set_system();
  mount_volumes(&spec);
  mount_files(&spec);
  if (process_identify(&spec, &identity) != 0) fail();

  int stdio[3];
  if (channels_open(&channels, &spec, &identity, stdio) != 0) fail();
  /* The first of its devpts. */
  if ((spec.flags & CLEARVM_FLAG_TERMINAL) != 0) mount_console("/dev/pts/0");
  umask(022);
  enter_working_directory();
  mount_finish(&spec);

  pid_t pid = process_start(0, &spec, &identity, stdio);
  if (pid < 0) fail();
  sched_setaffinity(0, sizeof all, &all);
  agent_send_started(0);
  for (int i = 0; i < 3; i++) close(stdio[i]);
  if (chdir("/") != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot leave the working directory: ", error_text(errno));

  struct end end = end_of(serve(pid, &channels));
  sync(); /* volumes: what the process wrote is on the host when its exit status is */
  bool failed = end.code != 0 || end.signal != 0;
  agent_send_end(end.code, end.signal, failed && memory_ran_out() ? CLEARVM_EXIT_OOM : 0);
  agent_wait_for_end();
}
