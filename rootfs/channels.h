/* A process's standard streams: vsock streams to the VMM on one side, pipes or a terminal on the
 * other. */
#ifndef CLEARVM_ROOTFS_CHANNELS_H_
#define CLEARVM_ROOTFS_CHANNELS_H_

#include "rootfs/parse_spec.h"
#include "rootfs/parse_users.h"
#include "rootfs/pump.h"

#define CHANNELS_POLLS 6 /* entries that channels_prepare fills in */

struct channels {
  int streams[3]; /* to the VMM, in the order of the process's fds; -1: none */
  int terminal;   /* its master; -1: none */
  struct pump pumps[3];
  size_t pump_count;
};

/* Both return 0, or -1 with a failure noted: then channels_close. */

/* Starts to connect the streams of process `number` that `flags` (CLEARVM_FLAG_*) ask for. */
int channels_connect(struct channels* channels, uint32_t number, uint32_t flags);
/* Makes the process's ends, its user's: `stdio` is the caller's to close, but for entries of -1. */
int channels_open(struct channels* channels, const struct spec* spec,
                  const struct identity* identity, int stdio[3]);

/* Takes a terminal away from those who have it: they get SIGHUP. */
void channels_hang_up(struct channels* channels);
void channels_resize(const struct channels* channels, uint16_t rows, uint16_t columns);

/* Fills in what to poll for, and acts on what has been polled. */
void channels_prepare(const struct channels* channels, struct pollfd polls[CHANNELS_POLLS]);
void channels_advance(struct channels* channels, const struct pollfd polls[CHANNELS_POLLS]);
/* The process had ended when it was polled: ends the outputs in which nothing was left. Others may
 * still write there, for nobody. */
void channels_finish(struct channels* channels, const struct pollfd polls[CHANNELS_POLLS]);

/* Whether nothing is on its way from one of the outputs that go on. */
bool channels_empty(const struct channels* channels);
/* Whether all output is with the VMM, and no more will go there. */
bool channels_drained(const struct channels* channels);
/* Whether nothing of the process's ends is left. */
bool channels_over(const struct channels* channels);

/* Lets go of the VMM's side, and of what goes to the process. */
void channels_disconnect(struct channels* channels);
/* Closes everything. */
void channels_close(struct channels* channels);

#endif
