/* Copies bytes between the process's pipes (or its terminal) and the vsock streams, without ever
 * waiting. */
#ifndef CLEARVM_ROOTFS_PUMP_H_
#define CLEARVM_ROOTFS_PUMP_H_

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

enum pump_direction {
  PUMP_INPUT, /* stream to process */
  PUMP_OUTPUT /* process to stream */
};

#define PUMP_BUFFER 65536 /* the largest payload of a vsock packet */

/* One direction of one channel. Both fds are nonblocking. */
struct pump {
  int from, to;
  enum pump_direction direction;
  bool terminal; /* the process's end is a terminal, which the other direction uses as well */
  bool done;
  bool end_of_file; /* of `from`; done when the buffer has been written */
  size_t start, end;
  char buffer[PUMP_BUFFER];
};

/* Fills in what to poll for: two entries. */
void pump_prepare(const struct pump* pump, struct pollfd* polls);
/* Acts on what has been polled. */
void pump_advance(struct pump* pump, const struct pollfd* polls);

#endif
