#include "rootfs/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdbool.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PORT_COUNT 3 /* the ports of agent.h lie side by side */

static int control = -1;
static bool have_ports; /* a kernel without ioperm(2) costs the timeline, nothing else */

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

static void send_frame(uint16_t type, const void* payload, size_t length) {
  struct clearvm_frame frame = {.length = (uint32_t)length, .type = type};
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

void agent_connect(void) {
  struct sockaddr_vm host = {
      .svm_family = AF_VSOCK, .svm_port = CLEARVM_PORT_CONTROL, .svm_cid = VMADDR_CID_HOST};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr*)&host, sizeof host) != 0)
    FAIL(EXIT_SETUP_FAILED, "cannot connect to the VMM over vsock: ", error_text(errno));
  control = fd;
  uint32_t version = CLEARVM_AGENT_VERSION;
  send_frame(CLEARVM_AGENT_READY, &version, sizeof version);
}

static void receive_whole(void* data, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t got = recv(control, (char*)data + at, length - at, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) end_vm();
    at += (size_t)got;
  }
}

uint8_t* agent_receive_spec(size_t* length) {
  static uint8_t buffer[CLEARVM_FRAME_MAX];
  struct clearvm_frame frame;
  receive_whole(&frame, sizeof frame);
  if (frame.type != CLEARVM_AGENT_SPEC || frame.length > sizeof buffer)
    FAIL(EXIT_SETUP_FAILED, "the VMM has sent something else than a spec");
  receive_whole(buffer, frame.length);
  *length = frame.length;
  return buffer;
}

int agent_open_stream(uint32_t port) {
  struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_HOST};
  int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) FAIL(EXIT_SETUP_FAILED, "cannot make a vsock socket: ", error_text(errno));
  connect(fd, (struct sockaddr*)&host, sizeof host);
  return fd;
}

void agent_send_started(void) { send_frame(CLEARVM_AGENT_STARTED, NULL, 0); }

void agent_send_exit(uint32_t code, uint32_t signal) {
  uint32_t payload[] = {code, signal};
  send_frame(CLEARVM_AGENT_EXIT, payload, sizeof payload);
}

int agent_fd(void) { return control; }

static void handle(const struct clearvm_frame* frame, const uint8_t* payload,
                   const struct agent_requests* requests) {
  if (frame->process != 0) return; /* a process that has gone already */
  if (frame->type == CLEARVM_AGENT_SIGNAL && frame->length == 4) {
    uint32_t number;
    memcpy(&number, payload, sizeof number);
    requests->signal(number);
  } else if (frame->type == CLEARVM_AGENT_RESIZE && frame->length == 4) {
    uint16_t size[2];
    memcpy(size, payload, sizeof size);
    requests->resize(size[0], size[1]);
  } else {
    end_vm();
  }
}

void agent_receive(const struct agent_requests* requests) {
  static uint8_t buffer[256];
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
      if (frame.length > sizeof buffer - sizeof frame) end_vm();
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

_Noreturn void fail_with(uint32_t code, const char* const* parts) {
  static char payload[CLEARVM_GUEST_FRAME_MAX];
  size_t length = sizeof code;
  memcpy(payload, &code, sizeof code);
  for (; *parts != NULL; parts++)
    for (const char* c = *parts; *c != 0 && length < sizeof payload; c++) payload[length++] = *c;
  if (control < 0) {
    static const char name[] = "clearvm init: ";
    struct iovec line[] = {{(void*)name, sizeof name - 1},
                           {payload + sizeof code, length - sizeof code}};
    int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    _exit(writev(log, line, 2) < 0 ? 2 : 1);
  }
  send_frame(CLEARVM_AGENT_ERROR, payload, length);
  agent_wait_for_end();
}

const char* error_text(int number) {
  static char text[128];
  strncpy(text, strerror(number), sizeof text - 1);
  if (text[0] >= 'A' && text[0] <= 'Z') text[0] = (char)(text[0] + 'a' - 'A');
  return text;
}
