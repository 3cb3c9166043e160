// PID 1 of a lab: builds the lab's root file system, then runs commands for the caller outside.
//
// Requests and answers travel over a virtio-serial port (AMD-V lab). In the VT-x lab there is only
// one direction: the requests lie in the initramfs as /lab/requests, and the answers leave through
// the serial port.
//
// A program of its own rather than a shell script, because it has to keep several byte streams
// apart and flowing while it reaps, and because it then needs nothing else in the initramfs.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "lab.h"

static int request_fd = -1, answer_fd = -1;
static bool serial;  // the VT-x lab: requests from a file, answers to the serial port

static void WriteAll(int fd, const uint8_t* bytes, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, bytes, size);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        poll(&wait, 1, -1);
        continue;
      }
      // The caller is gone; nobody is left to tell.
      reboot(RB_AUTOBOOT);
    }
    bytes += n;
    size -= (size_t)n;
  }
}

static void PutU32(uint8_t* at, uint32_t value) { memcpy(at, &value, 4); }

static uint32_t GetU32(const uint8_t* at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return value;
}

void Send(uint32_t id, uint8_t type, const void* payload, size_t size) {
  static uint8_t frame[kHeaderSize + kChunk];
  PutU32(frame, (uint32_t)(size + 5));
  PutU32(frame + 4, id);
  frame[8] = type;
  if (size > 0) memcpy(frame + kHeaderSize, payload, size);
  WriteAll(answer_fd, frame, kHeaderSize + size);
}

__attribute__((noreturn)) static void PowerOff(void) {
  sync();
  if (serial) {
    tcdrain(answer_fd);
    // Bochs ends when this word is written to its control port; it has no ACPI to ask.
    if (iopl(3) == 0) {
      for (const char* c = "Shutdown"; *c != '\0'; c++) outb((unsigned char)*c, 0x8900);
    }
  }
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}

void Die(const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  fprintf(stderr, "lab init: %s\n", text);
  if (answer_fd >= 0) Send(0, kFailed, text, strlen(text));
  PowerOff();
}

const char* NextString(const char** at, const char* end) {
  if (*at >= end) return NULL;
  const char* text = *at;
  const char* nul = memchr(text, '\0', (size_t)(end - text));
  if (nul == NULL) Die("malformed request: a string is not terminated");
  *at = nul + 1;
  return text;
}

const char* NeedString(const char** at, const char* end) {
  const char* text = NextString(at, end);
  if (text == NULL) Die("malformed request: a string is missing");
  return text;
}

static void Handle(uint32_t id, uint8_t type, const uint8_t* payload, size_t size) {
  switch (type) {
    case kSetup:
      Setup((const char*)payload, size);
      break;
    case kExec:
      Exec(id, (const char*)payload, size);
      break;
    case kStdin:
      Stdin(id, payload, size);
      break;
    case kSignal:
      if (size == 1) Signal(id, payload[0]);
      break;
    case kHeartbeat:
      break;
    default:
      Die("malformed request: type %u", type);
  }
}

// Reads what is there and handles the frames that are complete; false at end-of-file.
static bool ReadRequests(void) {
  static uint8_t buffer[kMaxFrame + 4];
  static size_t filled;
  ssize_t n = read(request_fd, buffer + filled, sizeof buffer - filled);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  filled += (size_t)n;
  size_t at = 0;
  while (filled - at >= kHeaderSize) {
    uint32_t length = GetU32(buffer + at);
    if (length < 5 || length > kMaxFrame) Die("malformed request: %u bytes", length);
    if (filled - at < 4 + (size_t)length) break;
    Handle(GetU32(buffer + at + 4), buffer[at + 8], buffer + at + kHeaderSize, length - 5);
    at += 4 + (size_t)length;
  }
  memmove(buffer, buffer + at, filled - at);
  filled -= at;
  return true;
}

static void OpenChannel(void) {
  request_fd = open("/lab/requests", O_RDONLY | O_CLOEXEC);
  serial = request_fd >= 0;
  if (serial) {
    answer_fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (answer_fd < 0) Die("/dev/ttyS0: %s", strerror(errno));
    struct termios raw;
    tcgetattr(answer_fd, &raw);
    cfmakeraw(&raw);
    cfsetspeed(&raw, B115200);
    tcsetattr(answer_fd, TCSANOW, &raw);
    return;
  }
  const struct timespec tick = {.tv_nsec = 1000 * 1000};
  for (int i = 0; i < 10000; i++, nanosleep(&tick, NULL)) {
    if (request_fd < 0) request_fd = open("/dev/vport0p1", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (request_fd < 0) continue;
    // Until the driver has heard that the caller is connected, a read says end-of-file.
    struct pollfd connected = {.fd = request_fd, .events = POLLOUT};
    if (poll(&connected, 1, 0) == 1 && (connected.revents & POLLHUP) == 0) {
      answer_fd = request_fd;
      return;
    }
  }
  Die("the virtio-serial port /dev/vport0p1 did not come up");
}

static void Serve(void) {
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, NULL);
  signal(SIGPIPE, SIG_IGN);
  int children = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
  if (children < 0) Die("signalfd: %s", strerror(errno));
  // A request file ends before its commands do.
  bool requests_ended = false;
  for (;;) {
    if (requests_ended && !AnyCommand()) PowerOff();
    struct pollfd fds[2 + kCommandFds] = {
        {.fd = requests_ended ? -1 : request_fd, .events = POLLIN},
        {.fd = children, .events = POLLIN},
    };
    PollCommands(fds + 2);
    if (poll(fds, sizeof fds / sizeof fds[0], -1) < 0) continue;
    ServeCommands(fds + 2);
    if (fds[1].revents != 0) {
      struct signalfd_siginfo info;
      while (read(children, &info, sizeof info) > 0) continue;
      Reap();
    }
    if (fds[0].revents != 0 && !ReadRequests()) {
      if (!serial) PowerOff();  // the caller has gone
      requests_ended = true;
    }
  }
}

int main(void) {
  umask(0);
  EarlyBoot();
  OpenChannel();
  umask(022);
  Serve();
}
