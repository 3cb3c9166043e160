#include "rootfs/pump.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS 32 /* buffers that one channel may move before the others get their turn */

void pump_prepare(const struct pump* pump, struct pollfd* polls) {
  polls[0] = polls[1] = (struct pollfd){.fd = -1};
  if (pump->done) return;
  if (pump->discards) {
    polls[0] = (struct pollfd){.fd = pump->from, .events = POLLIN};
    return;
  }
  bool empty = pump->start == pump->end;
  if (empty) polls[0] = (struct pollfd){.fd = pump->from, .events = POLLIN};
  /* Without events, poll still tells that the other end of `to` has gone. */
  polls[1] = (struct pollfd){.fd = pump->to, .events = empty ? 0 : POLLOUT};
}

static void close_process_end(const struct pump* pump) {
  if (!pump->terminal) close(pump->direction == PUMP_INPUT ? pump->to : pump->from);
}

/* `from` has ended and all of it has been written. */
static void finish(struct pump* pump) {
  pump->done = true;
  if (pump->direction == PUMP_OUTPUT) shutdown(pump->to, SHUT_WR);
  close_process_end(pump);
}

/* Nobody reads `to` any more. A process that goes on writing gets SIGPIPE, as it would without a VM
 * between. */
static void give_up(struct pump* pump) {
  pump->done = true;
  if (pump->direction == PUMP_INPUT) shutdown(pump->from, SHUT_RD);
  close_process_end(pump);
}

/* Returns false when there is nothing more to do now. */
static bool write_some(struct pump* pump) {
  while (pump->start < pump->end) {
    ssize_t written = write(pump->to, pump->buffer + pump->start, pump->end - pump->start);
    if (written < 0 && errno == EINTR) continue;
    /* ENOTCONN: the stream is still connecting; poll tells when it is, or that it cannot. */
    if (written < 0 && (errno == EAGAIN || errno == ENOTCONN)) return false;
    if (written < 0) return give_up(pump), false;
    pump->start += (size_t)written;
  }
  pump->start = pump->end = 0;
  if (pump->end_of_file) finish(pump);
  return !pump->done;
}

/* Reads what nobody wants. */
static void drain(struct pump* pump) {
  ssize_t got = read(pump->from, pump->buffer, sizeof pump->buffer);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return;
  pump->done = true;
  close_process_end(pump);
}

void pump_advance(struct pump* pump, const struct pollfd* polls) {
  if (pump->done || (polls[0].revents | polls[1].revents) == 0) return;
  if (pump->discards) {
    drain(pump);
    return;
  }
  if ((polls[1].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
    give_up(pump);
    return;
  }
  for (int round = 0; round < ROUNDS && write_some(pump); round++) {
    ssize_t got = read(pump->from, pump->buffer, sizeof pump->buffer);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0)
      pump->end_of_file = true; /* errors count as the end: EIO is a terminal's */
    else
      pump->end = (size_t)got;
  }
}

bool pump_idle(const struct pump* pump, const struct pollfd* polls) {
  return polls[0].fd >= 0 && polls[0].revents == 0 && pump->start == pump->end;
}

void pump_discard(struct pump* pump) {
  shutdown(pump->to, SHUT_WR);
  pump->discards = true;
}

void pump_stop(struct pump* pump) {
  if (!pump->done) give_up(pump);
}
