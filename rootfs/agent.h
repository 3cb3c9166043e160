/* The control stream to the VMM (native/protocol/agent.h), and the end of the VM. */
#ifndef CLEARVM_ROOTFS_AGENT_H_
#define CLEARVM_ROOTFS_AGENT_H_

#include <stddef.h>
#include <stdint.h>

#include "native/protocol/agent.h"

/* Marks a point on the VMM's timeline. Needs stamps_open. */
void stamp(enum clearvm_stamp point);
/* Gives this process the VMM's ports, and takes them away again (a child inherits them). */
void stamps_open(void);
void stamps_close(void);

/* Connects the control stream and says READY. From here on a template is made: whatever is unique
 * to a VM comes behind it. */
void agent_connect(void);

/* Waits for the identity, which must be the first thing that is acted on. */
struct clearvm_identity agent_receive_identity(void);

/* Waits for the spec; returns its TLVs, which the caller may change, and their length. */
uint8_t* agent_receive_spec(size_t* length);

/*
 * Starts to connect to a stdio port (CLEARVM_PORT_STDIN, ...) of process `number` on the host.
 * Returns the nonblocking socket, or -1 with a failure noted. A port that nobody listens on shows
 * as an error of the first read or write.
 */
int agent_open_stream(uint32_t number, uint32_t port);

/* Frames to the VMM about process `number`. */
void agent_send_started(uint32_t number);
void agent_send_exit(uint32_t number, uint32_t code, uint32_t signal);
/* The same of process 0: the last frame. `flags` are CLEARVM_EXIT_*. */
void agent_send_end(uint32_t code, uint32_t signal, uint32_t flags);
/* That this VM goes on from a snapshot. */
void agent_send_restored(void);
/* That it does not start, for the reason that was noted. */
void agent_send_failure(uint32_t number);

/* The control stream's socket, to be polled for reading; then call agent_receive. */
int agent_fd(void);

/* What the VMM asks for; each is called from agent_receive. */
struct agent_requests {
  void (*signal)(uint32_t number, uint32_t signal);
  void (*resize)(uint32_t number, uint16_t rows, uint16_t columns);
  void (*hang_up)(uint32_t number);
  void (*snapshot)(void);
  /* `tlvs` may be changed, and are gone afterwards. */
  void (*exec)(uint32_t number, uint8_t* tlvs, size_t length);
};

/* Takes in what has arrived, without waiting. Ends the VM if the VMM has closed the stream or
 * broken the protocol. */
void agent_receive(const struct agent_requests* requests);

/* Waits until the VMM ends the VM, or closes the stream. */
_Noreturn void agent_wait_for_end(void);

/*
 * Notes why a process cannot be started, in `parts` (up to a NULL), and returns -1. There is one
 * such note; a vforked child's is its parent's.
 */
int note_failure(uint32_t code, const char* const* parts);
#define FAILED(code, ...) note_failure(code, (const char* const[]){__VA_ARGS__, NULL})

/*
 * The container's first process does not start: tells the VMM what was noted, and waits for the
 * end. Before the stream is connected, the text goes to the kernel's log, and init exits: the
 * kernel's panic tells the VMM.
 */
_Noreturn void fail(void);
#define FAIL(code, ...)        \
  do {                         \
    FAILED(code, __VA_ARGS__); \
    fail();                    \
  } while (0)

/* The text of an errno as Go programs (runc, docker) print it: "no such file or directory". */
const char* error_text(int number);

#define EXIT_SETUP_FAILED 125
#define EXIT_CANNOT_EXECUTE 126
#define EXIT_NOT_FOUND 127

#endif
