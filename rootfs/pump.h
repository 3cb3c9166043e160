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

/* One direction of one channel. Both fds are nonblocking. The process's end is closed when the pump
 * is done, unless it is a terminal; the stream is somebody else's to close. */
struct pump {
  int from, to;
  enum pump_direction direction;
  bool terminal; /* the process's end is a terminal, which the other direction uses as well */
  bool done;
  bool discards;    /* nothing goes to the stream any more */
  bool end_of_file; /* of `from`; done when the buffer has been written */
  size_t start, end;
  char buffer[PUMP_BUFFER];
};

/* Fills in what to poll for: two entries. */
void pump_prepare(const struct pump* pump, struct pollfd* polls);
/* Acts on what has been polled. */
void pump_advance(struct pump* pump, const struct pollfd* polls);

/* Whether there was nothing in the process's pipe, nor anything on its way from it, when it was
 * polled. */
bool pump_idle(const struct pump* pump, const struct pollfd* polls);
/* Nothing more is wanted of an output, whoever may still write there. */
void pump_discard(struct pump* pump);
/* Ends an input: the process reads end-of-file. */
void pump_stop(struct pump* pump);

#endif
