#include "rootfs/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdbool.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#define PORT_COUNT 5 /* the ports of agent.h lie side by side */

static int control = -1;
/* What comes from the VMM: the spec, then frames as they arrive. */
static uint8_t buffer[sizeof(struct clearvm_frame) + CLEARVM_FRAME_MAX];
/* A failure as ERROR frames carry it: the code, then the text. */
static struct {
  uint32_t code;
  char text[CLEARVM_GUEST_FRAME_MAX - sizeof(uint32_t)];
} failure;
static size_t failure_length; /* of the text, bytes */
static bool have_ports;       /* a kernel without ioperm(2) costs the timeline, nothing else */

void stamps_open(void) { have_ports = ioperm(CLEARVM_PORT_IO_STAMP, PORT_COUNT, 1) == 0; }

void stamps_close(void) { ioperm(CLEARVM_PORT_IO_STAMP, PORT_COUNT, 0); }

void stamp(enum clearvm_stamp point) {
  if (have_ports) outb((unsigned char)point, CLEARVM_PORT_IO_STAMP);
}

/* Ends the VM from inside, for the case that the VMM has not: it is gone, or waits for this. */
static _Noreturn void end_vm(void) {
  reboot(RB_AUTOBOOT);
  _exit(1);
}

static void send_frame(uint16_t type, uint32_t number, const void* payload, size_t length) {
  struct clearvm_frame frame = {.length = (uint32_t)length, .type = type, .process = number};
  struct iovec parts[] = {{&frame, sizeof frame}, {(void*)payload, length}};
  struct iovec* part = parts;
  int left = length == 0 ? 1 : 2;
  while (left > 0) {
    ssize_t sent = writev(control, part, left);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) end_vm();
    while (left > 0 && (size_t)sent >= part->iov_len)
      sent -= (ssize_t)part->iov_len, part++, left--;
    if (left > 0) part->iov_base = (char*)part->iov_base + sent, part->iov_len -= (size_t)sent;
  }
}

/* The VMM answers always, but a busy host may run it late: the kernel would give up after 2 s. */
static void wait_for_answer(int fd) {
  struct timeval day = {.tv_sec = 24 * 3600};
  setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &day, sizeof day);
}

void agent_connect(void) {
  struct sockaddr_vm host = {
      .svm_family = AF_VSOCK, .svm_port = CLEARVM_PORT_CONTROL, .svm_cid = VMADDR_CID_HOST};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0) wait_for_answer(fd);
  if (fd < 0 || connect(fd, (struct sockaddr*)&host, sizeof host) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot connect to the VMM over vsock: ", error_text(errno));
  control = fd;
  uint32_t version = CLEARVM_AGENT_VERSION;
  send_frame(CLEARVM_AGENT_READY, 0, &version, sizeof version);
}

static void receive_whole(void* data, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t got = recv(control, (char*)data + at, length - at, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) end_vm();
    at += (size_t)got;
  }
}

struct clearvm_identity agent_receive_identity(void) {
  struct __attribute__((packed)) {
    struct clearvm_frame frame;
    struct clearvm_identity identity;
  } message;
  receive_whole(&message, sizeof message);
  if (message.frame.type != CLEARVM_AGENT_IDENTITY ||
      message.frame.length != sizeof message.identity)
    FAIL(EXIT_SETUP_FAILED, "the VMM has sent something else than an identity");
  return message.identity;
}

uint8_t* agent_receive_spec(size_t* length) {
  struct clearvm_frame frame;
  receive_whole(&frame, sizeof frame);
  if (frame.type != CLEARVM_AGENT_SPEC || frame.length > CLEARVM_FRAME_MAX)
    FAIL(EXIT_SETUP_FAILED, "the VMM has sent something else than a spec");
  receive_whole(buffer, frame.length);
  *length = frame.length;
  return buffer;
}

/* Any free one of the ports that only init may take. */
static int bind_privileged(int fd) {
  static uint32_t last;
  struct sockaddr_vm own = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
  for (uint32_t i = 1; i < CLEARVM_PORT_GUEST_LIMIT; i++) {
    last = last % (CLEARVM_PORT_GUEST_LIMIT - 1) + 1;
    own.svm_port = last;
    if (bind(fd, (struct sockaddr*)&own, sizeof own) == 0) return 0;
    if (errno != EADDRINUSE) return -1;
  }
  return -1;
}

int agent_open_stream(uint32_t number, uint32_t port) {
  struct sockaddr_vm host = {.svm_family = AF_VSOCK,
                             .svm_port = port + number * CLEARVM_PORTS_PER_PROCESS,
                             .svm_cid = VMADDR_CID_HOST};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  /* The first process has nobody beside it who could be first. */
  if (fd < 0 || (number != 0 && bind_privileged(fd) != 0)) {
    FAILED(EXIT_SETUP_FAILED, "cannot make a vsock socket: ", error_text(errno));
    if (fd >= 0) close(fd);
    return -1;
  }
  wait_for_answer(fd);
  connect(fd, (struct sockaddr*)&host, sizeof host);
  return fd;
}

void agent_send_started(uint32_t number) { send_frame(CLEARVM_AGENT_STARTED, number, NULL, 0); }

void agent_send_exit(uint32_t number, uint32_t code, uint32_t signal) {
  uint32_t payload[] = {code, signal};
  send_frame(CLEARVM_AGENT_EXIT, number, payload, sizeof payload);
}

void agent_send_end(uint32_t code, uint32_t signal, uint32_t flags) {
  uint32_t payload[] = {code, signal, flags};
  send_frame(CLEARVM_AGENT_EXIT, 0, payload, sizeof payload);
}

void agent_send_restored(void) { send_frame(CLEARVM_AGENT_RESTORED, 0, NULL, 0); }

void agent_send_failure(uint32_t number) {
  /* As docker's exec, which keeps 125 for what is wrong with its own command line. */
  if (number != 0 && failure.code == EXIT_SETUP_FAILED) failure.code = EXIT_CANNOT_EXECUTE;
  send_frame(CLEARVM_AGENT_ERROR, number, &failure, sizeof failure.code + failure_length);
}

int agent_fd(void) { return control; }

static void handle(const struct clearvm_frame* frame, uint8_t* payload,
                   const struct agent_requests* requests) {
  if (frame->type == CLEARVM_AGENT_SIGNAL && frame->length == 4) {
    uint32_t signal;
    memcpy(&signal, payload, sizeof signal);
    requests->signal(frame->process, signal);
  } else if (frame->type == CLEARVM_AGENT_RESIZE && frame->length == 4) {
    uint16_t size[2];
    memcpy(size, payload, sizeof size);
    requests->resize(frame->process, size[0], size[1]);
  } else if (frame->type == CLEARVM_AGENT_HANGUP && frame->length == 0) {
    requests->hang_up(frame->process);
  } else if (frame->type == CLEARVM_AGENT_SNAPSHOT && frame->length == 0) {
    requests->snapshot();
  } else if (frame->type == CLEARVM_AGENT_EXEC && frame->process != 0) {
    requests->exec(frame->process, payload, frame->length);
  } else {
    end_vm();
  }
}

void agent_receive(const struct agent_requests* requests) {
  static size_t used;
  for (;;) {
    ssize_t got = recv(control, buffer + used, sizeof buffer - used, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) end_vm();
    used += (size_t)got;
    size_t at = 0;
    struct clearvm_frame frame;
    while (used - at >= sizeof frame) {
      memcpy(&frame, buffer + at, sizeof frame);
      if (frame.length > CLEARVM_FRAME_MAX) end_vm();
      if (used - at - sizeof frame < frame.length) break;
      handle(&frame, buffer + at + sizeof frame, requests);
      at += sizeof frame + frame.length;
    }
    memmove(buffer, buffer + at, used - at);
    used -= at;
  }
}

_Noreturn void agent_wait_for_end(void) {
  char byte[64];
  for (;;) {
    ssize_t got = read(control, byte, sizeof byte);
    if (got == 0 || (got < 0 && errno != EINTR)) end_vm();
  }
}

int note_failure(uint32_t code, const char* const* parts) {
  failure.code = code;
  failure_length = 0;
  for (; *parts != NULL; parts++)
    for (const char* c = *parts; *c != 0 && failure_length < sizeof failure.text; c++)
      failure.text[failure_length++] = *c;
  return -1;
}

_Noreturn void fail(void) {
  if (control < 0) {
    static const char name[] = "clearvm init: ";
    struct iovec line[] = {{(void*)name, sizeof name - 1}, {failure.text, failure_length}};
    int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    _exit(writev(log, line, 2) < 0 ? 2 : 1);
  }
  agent_send_failure(0);
  agent_wait_for_end();
}

const char* error_text(int number) {
  static char text[128];
  strncpy(text, strerror(number), sizeof text - 1);
  if (text[0] >= 'A' && text[0] <= 'Z') text[0] = (char)(text[0] + 'a' - 'A');
  return text;
}
