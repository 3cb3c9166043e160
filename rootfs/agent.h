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

/* Connects the control stream and says READY. */
void agent_connect(void);

/* Waits for the spec; returns its TLVs, which the caller may change, and their length. */
uint8_t* agent_receive_spec(size_t* length);

/*
 * Starts to connect to a stdio port of the host, and returns the nonblocking socket. A port that
 * nobody listens on shows as an error of the first read or write.
 */
int agent_open_stream(uint32_t port);

/* Frames to the VMM, for the container's first process. */
void agent_send_started(void);
void agent_send_exit(uint32_t code, uint32_t signal);

/* The control stream's socket, to be polled for reading; then call agent_receive. */
int agent_fd(void);

/* What the VMM asks of the container's process; each is called from agent_receive. */
struct agent_requests {
  void (*signal)(uint32_t number);
  void (*resize)(uint16_t rows, uint16_t columns);
};

/* Takes in what has arrived, without waiting. Ends the VM if the VMM has closed the stream or
 * broken the protocol. */
void agent_receive(const struct agent_requests* requests);

/* Waits until the VMM ends the VM, or closes the stream. */
_Noreturn void agent_wait_for_end(void);

/*
 * Sends an ERROR frame made of `parts` (up to a NULL), and waits for the end. Before the stream is
 * connected, the text goes to the kernel's log, and init exits: the kernel's panic tells the VMM.
 */
_Noreturn void fail_with(uint32_t code, const char* const* parts);
#define FAIL(code, ...) fail_with(code, (const char* const[]){__VA_ARGS__, NULL})

/* The text of an errno as Go programs (runc, docker) print it: "no such file or directory". */
const char* error_text(int number);

#define EXIT_SETUP_FAILED 125
#define EXIT_CANNOT_EXECUTE 126
#define EXIT_NOT_FOUND 127

#endif
