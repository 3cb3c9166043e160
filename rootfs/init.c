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
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rootfs/agent.h"
#include "rootfs/mounts.h"
#include "rootfs/parse_spec.h"
#include "rootfs/parse_users.h"
#include "rootfs/process.h"
#include "rootfs/pump.h"

#define PIPE_SIZE \
  (256 * 1024) /* four packets of the stream: the process rarely waits for the host */
#define NANOSECONDS 1000000000ull

static struct spec spec;
static struct identity identity;
static struct pump pumps[3]; /* what flows: in, out, error; with a terminal the first two */
static size_t pump_count;
static int terminal = -1; /* the terminal's master */
static pid_t main_pid;
static int main_status;
static bool main_ended;

static void raise_loopback(void) {
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) FAIL(EXIT_SETUP_FAILED, "cannot make a socket: ", error_text(errno));
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(fd, SIOCSIFFLAGS, &request) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot raise the loopback interface: ", error_text(errno));
  close(fd);
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
  raise_loopback();
  if (spec.hostname != NULL && sethostname(spec.hostname, strlen(spec.hostname)) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot set the host name: ", error_text(errno));
  for (size_t i = 0; i < spec.sysctl_count; i++) set_sysctl(spec.sysctls[i]);
  struct timespec now = {(time_t)(spec.time / NANOSECONDS), (long)(spec.time % NANOSECONDS)};
  if (spec.has_time && clock_settime(CLOCK_REALTIME, &now) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot set the time: ", error_text(errno));
}

static void enter_working_directory(void) {
  if (chdir(spec.cwd) == 0) return;
  if (errno != ENOENT || make_directories(spec.cwd) != 0 || chdir(spec.cwd) != 0)
    FAIL(EXIT_SETUP_FAILED, "chdir to cwd (\"", spec.cwd, "\") failed: ", error_text(errno));
}

static struct pump* add_pump(int from, int to, enum pump_direction direction) {
  struct pump* pump = &pumps[pump_count++];
  pump->from = from;
  pump->to = to;
  pump->direction = direction;
  return pump;
}

/* Makes a pipe between the process and `stream`. Returns the process's end. */
static int open_channel(int stream, enum pump_direction direction) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot make a pipe: ", error_text(errno));
  int ours = direction == PUMP_INPUT ? ends[1] : ends[0];
  int theirs = direction == PUMP_INPUT ? ends[0] : ends[1];
  fcntl(ours, F_SETFL, O_NONBLOCK);
  fcntl(ours, F_SETPIPE_SZ, PIPE_SIZE); /* a refusal costs speed alone */
  /* So that the user may open /dev/stdout. */
  if (fchown(theirs, identity.uid, identity.gid) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot give a pipe to the user: ", error_text(errno));
  if (direction == PUMP_INPUT)
    add_pump(stream, ours, direction);
  else
    add_pump(ours, stream, direction);
  return theirs;
}

static void open_pipes(const int streams[3], int stdio[3]) {
  if (streams[0] >= 0)
    stdio[0] = open_channel(streams[0], PUMP_INPUT);
  else
    stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (stdio[0] < 0) FAIL(EXIT_SETUP_FAILED, "cannot open /dev/null: ", error_text(errno));
  stdio[1] = open_channel(streams[1], PUMP_OUTPUT);
  stdio[2] = open_channel(streams[2], PUMP_OUTPUT);
}

static void resize(uint16_t rows, uint16_t columns) {
  struct winsize size = {.ws_row = rows, .ws_col = columns};
  if (terminal >= 0) ioctl(terminal, TIOCSWINSZ, &size);
}

static void open_terminal(int stream, int stdio[3]) {
  int unlocked = 0;
  int device = -1;
  terminal = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (terminal >= 0 && ioctl(terminal, TIOCSPTLCK, &unlocked) == 0)
    device = ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (device < 0 || fchown(device, identity.uid, (gid_t)-1) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot make a terminal: ", error_text(errno));
  if (spec.rows != 0 || spec.columns != 0) resize(spec.rows, spec.columns);
  mount_console("/dev/pts/0"); /* the first of its devpts */
  stdio[0] = stdio[1] = stdio[2] = device;
  add_pump(stream, terminal, PUMP_INPUT)->terminal = true;
  add_pump(terminal, stream, PUMP_OUTPUT)->terminal = true;
}

static void deliver_signal(uint32_t number) {
  if (!main_ended && number > 0 && number < _NSIG) kill(main_pid, (int)number);
}

static void reap(void) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != main_pid || main_ended) continue;
    main_ended = true;
    main_status = status;
    kill(-1, SIGKILL); /* all but init: what is left of a container ends with its first process */
  }
}

static bool output_done(void) {
  for (size_t i = 0; i < pump_count; i++)
    if (pumps[i].direction == PUMP_OUTPUT && !pumps[i].done) return false;
  return true;
}

/* Runs until the process has ended and all of its output is with the host. */
static void serve(void) {
  static const struct agent_requests requests = {deliver_signal, resize};
  sigset_t none;
  sigemptyset(&none);
  while (!main_ended || !output_done()) {
    struct pollfd polls[1 + 2 * 3];
    polls[0] = (struct pollfd){.fd = agent_fd(), .events = POLLIN};
    for (size_t i = 0; i < pump_count; i++) pump_prepare(&pumps[i], &polls[1 + 2 * i]);
    /* SIGCHLD is blocked but here, so none is missed. */
    if (ppoll(polls, 1 + 2 * pump_count, NULL, &none) < 0) {
      reap();
      continue;
    }
    if (polls[0].revents != 0) agent_receive(&requests);
    for (size_t i = 0; i < pump_count; i++) pump_advance(&pumps[i], &polls[1 + 2 * i]);
  }
}

static void on_child(int number) { (void)number; } /* only to interrupt ppoll */

static void prepare_signals(void) {
  struct sigaction action = {.sa_handler = on_child};
  sigaction(SIGCHLD, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  sigset_t child_signal;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_signal, NULL);
}

int main(void) {
  stamps_open();
  stamp(CLEARVM_STAMP_INIT);
  umask(0);
  prepare_signals();
  agent_connect();
  size_t length;
  uint8_t* tlvs = agent_receive_spec(&length);
  const char* wrong = spec_parse(tlvs, length, &spec);
  if (wrong != NULL) FAIL(EXIT_SETUP_FAILED, "the spec is malformed: ", wrong);

  /* The streams connect while the file systems are mounted. */
  bool with_terminal = (spec.flags & CLEARVM_FLAG_TERMINAL) != 0;
  int streams[3] = {-1, agent_open_stream(CLEARVM_PORT_STDOUT), -1};
  if (!with_terminal) {
    streams[2] = agent_open_stream(CLEARVM_PORT_STDERR);
    if ((spec.flags & CLEARVM_FLAG_STDIN) != 0) streams[0] = agent_open_stream(CLEARVM_PORT_STDIN);
  }
  mount_root(&spec);
  mount_builtin();
  set_system();
  mount_volumes(&spec);
  mount_files(&spec);
  process_identify(&spec, &identity);

  int stdio[3];
  if (with_terminal)
    open_terminal(streams[1], stdio);
  else
    open_pipes(streams, stdio);
  umask(022);
  enter_working_directory();
  mount_finish(&spec);

  main_pid = process_start(&spec, &identity, stdio);
  agent_send_started();
  for (int i = 0; i < 3; i++)
    if (i == 0 || stdio[i] != stdio[0]) close(stdio[i]);
  if (chdir("/") != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot leave the working directory: ", error_text(errno));

  serve();
  sync(); /* volumes: what the process wrote is on the host when its exit status is */
  bool exited = WIFEXITED(main_status);
  uint32_t number = exited ? 0 : (uint32_t)WTERMSIG(main_status);
  agent_send_exit(exited ? (uint32_t)WEXITSTATUS(main_status) : 128 + number, number);
  agent_wait_for_end();
}
