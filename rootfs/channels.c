#include "rootfs/channels.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "rootfs/agent.h"

#define PIPE_SIZE \
  (256 * 1024) /* four packets of the stream: the process rarely waits for the host */

int channels_connect(struct channels* channels, uint32_t number, uint32_t flags) {
  bool terminal = (flags & CLEARVM_FLAG_TERMINAL) != 0;
  bool wanted[3] = {!terminal && (flags & CLEARVM_FLAG_STDIN) != 0, true, !terminal};
  channels->terminal = channels->streams[0] = channels->streams[1] = channels->streams[2] = -1;
  for (uint32_t i = 0; i < 3; i++)
    if (wanted[i] && (channels->streams[i] = agent_open_stream(number, CLEARVM_PORT_STDIN + i)) < 0)
      return -1;
  return 0;
}

static void add_pump(struct channels* channels, int from, int to, enum pump_direction direction) {
  struct pump* pump = &channels->pumps[channels->pump_count++];
  pump->from = from;
  pump->to = to;
  pump->direction = direction;
  pump->terminal = channels->terminal >= 0;
}

/* Makes a pipe between the process and stream `number`. Returns the process's end. */
static int open_pipe(struct channels* channels, int number, const struct identity* identity) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return FAILED(EXIT_SETUP_FAILED, "cannot make a pipe: ", error_text(errno));
  bool input = number == 0;
  int ours = ends[input], theirs = ends[!input];
  fcntl(ours, F_SETFL, O_NONBLOCK);
  fcntl(ours, F_SETPIPE_SZ, PIPE_SIZE); /* a refusal costs speed alone */
  if (input)
    add_pump(channels, channels->streams[number], ours, PUMP_INPUT);
  else
    add_pump(channels, ours, channels->streams[number], PUMP_OUTPUT);
  /* So that the user may open /dev/stdout. */
  if (fchown(theirs, identity->uid, identity->gid) == 0) return theirs;
  close(theirs);
  return FAILED(EXIT_SETUP_FAILED, "cannot give a pipe to the user: ", error_text(errno));
}

static int open_null(void) {
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd < 0) FAILED(EXIT_SETUP_FAILED, "cannot open /dev/null: ", error_text(errno));
  return fd;
}

static int open_terminal(struct channels* channels, const struct spec* spec,
                         const struct identity* identity) {
  int unlocked = 0;
  int device = -1;
  int terminal = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  channels->terminal = terminal;
  if (terminal >= 0 && ioctl(terminal, TIOCSPTLCK, &unlocked) == 0)
    device = ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (device < 0 || fchown(device, identity->uid, (gid_t)-1) != 0) {
    FAILED(EXIT_SETUP_FAILED, "cannot make a terminal: ", error_text(errno));
    if (device >= 0) close(device);
    return -1;
  }
  if (spec->rows != 0 || spec->columns != 0) channels_resize(channels, spec->rows, spec->columns);
  add_pump(channels, channels->streams[1], terminal, PUMP_INPUT);
  add_pump(channels, terminal, channels->streams[1], PUMP_OUTPUT);
  return device;
}

int channels_open(struct channels* channels, const struct spec* spec,
                  const struct identity* identity, int stdio[3]) {
  stdio[0] = stdio[1] = stdio[2] = -1;
  if ((spec->flags & CLEARVM_FLAG_TERMINAL) != 0) {
    stdio[0] = open_terminal(channels, spec, identity);
    stdio[1] = stdio[0] < 0 ? -1 : fcntl(stdio[0], F_DUPFD_CLOEXEC, 3);
    stdio[2] = stdio[0] < 0 ? -1 : fcntl(stdio[0], F_DUPFD_CLOEXEC, 3);
    return stdio[0] < 0 ? -1 : 0;
  }
  for (int i = 0; i < 3; i++) {
    stdio[i] = channels->streams[i] < 0 ? open_null() : open_pipe(channels, i, identity);
    if (stdio[i] < 0) return -1;
  }
  return 0;
}

void channels_resize(const struct channels* channels, uint16_t rows, uint16_t columns) {
  struct winsize size = {.ws_row = rows, .ws_col = columns};
  if (channels->terminal >= 0) ioctl(channels->terminal, TIOCSWINSZ, &size);
}

void channels_prepare(const struct channels* channels, struct pollfd polls[CHANNELS_POLLS]) {
  for (size_t i = 0; i < CHANNELS_POLLS; i++) polls[i] = (struct pollfd){.fd = -1};
  for (size_t i = 0; i < channels->pump_count; i++)
    pump_prepare(&channels->pumps[i], &polls[2 * i]);
}

void channels_hang_up(struct channels* channels) {
  if (channels->terminal < 0) return;
  for (size_t i = 0; i < channels->pump_count; i++) channels->pumps[i].done = true;
  close(channels->terminal);
  channels->terminal = -1;
}

void channels_advance(struct channels* channels, const struct pollfd polls[CHANNELS_POLLS]) {
  for (size_t i = 0; i < channels->pump_count; i++) {
    struct pump* pump = &channels->pumps[i];
    pump_advance(pump, &polls[2 * i]);
    if (pump->terminal && pump->direction == PUMP_OUTPUT && pump->done) channels_hang_up(channels);
  }
}

static bool is_sending(const struct pump* pump) {
  return pump->direction == PUMP_OUTPUT && !pump->done && !pump->discards;
}

void channels_finish(struct channels* channels, const struct pollfd polls[CHANNELS_POLLS]) {
  for (size_t i = 0; i < channels->pump_count; i++) {
    struct pump* pump = &channels->pumps[i];
    if (!is_sending(pump) || !pump_idle(pump, &polls[2 * i])) continue;
    pump_discard(pump);
    if (pump->terminal) channels_hang_up(channels);
  }
}

bool channels_empty(const struct channels* channels) {
  for (size_t i = 0; i < channels->pump_count; i++)
    if (is_sending(&channels->pumps[i]) && channels->pumps[i].start == channels->pumps[i].end)
      return true;
  return false;
}

bool channels_drained(const struct channels* channels) {
  for (size_t i = 0; i < channels->pump_count; i++)
    if (is_sending(&channels->pumps[i])) return false;
  return true;
}

bool channels_over(const struct channels* channels) {
  for (size_t i = 0; i < channels->pump_count; i++)
    if (!channels->pumps[i].done) return false;
  return true;
}

void channels_disconnect(struct channels* channels) {
  for (size_t i = 0; i < channels->pump_count; i++)
    if (channels->pumps[i].direction == PUMP_INPUT) pump_stop(&channels->pumps[i]);
  for (int i = 0; i < 3; i++) {
    if (channels->streams[i] >= 0) close(channels->streams[i]);
    channels->streams[i] = -1;
  }
}

void channels_close(struct channels* channels) {
  for (size_t i = 0; i < channels->pump_count; i++) pump_stop(&channels->pumps[i]);
  channels_disconnect(channels);
  channels_hang_up(channels);
}
