/*
 * The protocol on the VMM's control socket: between the engine (or whoever started the VMM) and
 * clearvm-vmm. A Unix stream socket, inherited by the VMM; frames as in agent.h (struct clearvm_frame), with
 * `process` renamed: requests carry a number of the sender's choice there, and replies repeat it.
 *
 * This header is the protocol's only definition; test/unit checks that src/vm/protocol.ts agrees with it.
 * Prose: docs/compatibility.md. All integers are little-endian.
 */
#ifndef CLEARVM_PROTOCOL_CONTROL_H_
#define CLEARVM_PROTOCOL_CONTROL_H_

#include "native/protocol/agent.h"

#define CLEARVM_CONTROL_VERSION 1

enum clearvm_control_frame_type {
  /* engine to VMM; each is answered by a REPLY */
  CLEARVM_CONTROL_START = 1,   /* payload: the spec (TLVs of agent.h), handed to init when it is ready */
  CLEARVM_CONTROL_PAUSE = 2,   /* stops all vCPUs */
  CLEARVM_CONTROL_RESUME = 3,
  CLEARVM_CONTROL_STOP = 4,    /* ends the VM at once; EXIT is not sent */
  CLEARVM_CONTROL_METRICS = 5, /* the reply's payload is text, a "name value\n" each line */
  CLEARVM_CONTROL_SIGNAL = 6,  /* payload: uint32 signal number, for the container's process */
  CLEARVM_CONTROL_RESIZE = 7,  /* payload: uint16 rows, uint16 columns */

  /* VMM to engine */
  CLEARVM_CONTROL_REPLY = 0x80,    /* payload: uint32 errno (0: done), then the result or a message */
  CLEARVM_CONTROL_TIMELINE = 0x81, /* payload: stamps, each uint32 enum clearvm_timeline, uint32 0,
                                      uint64 CLOCK_MONOTONIC ns; sent with STARTED and at the end */
  CLEARVM_CONTROL_STARTED = 0x82,  /* the container's process runs */
  CLEARVM_CONTROL_EXIT = 0x83,     /* payload: uint32 exit code, uint32 signal; all output is written out */
  CLEARVM_CONTROL_FAILURE = 0x84   /* payload: uint32 enum clearvm_failure, uint32 exit code, uint32 length of
                                      the message, the message, then the last lines of the kernel log */
};

/* The points of the timeline that the VMM stamps (DESIGN: the life of `clearvm run`). */
enum clearvm_timeline {
  CLEARVM_TIME_VMM_START = 1,    /* main() of clearvm-vmm */
  CLEARVM_TIME_VMM_JAILED = 2,   /* the jail is entered */
  CLEARVM_TIME_VM_CREATED = 3,   /* KVM_CREATE_VM and the memory are done */
  CLEARVM_TIME_KERNEL_LOADED = 4, /* into memory; before VM_CREATED */
  CLEARVM_TIME_GUEST_ENTRY = 5,  /* just before the first KVM_RUN */
  CLEARVM_TIME_INIT = 6,         /* init's first instructions (CLEARVM_STAMP_INIT) */
  CLEARVM_TIME_AGENT_READY = 7,  /* READY received */
  CLEARVM_TIME_ROOT_MOUNTED = 8, /* CLEARVM_STAMP_ROOT */
  CLEARVM_TIME_EXEC = 9,         /* CLEARVM_STAMP_EXEC */
  CLEARVM_TIME_STARTED = 10,     /* STARTED received */
  CLEARVM_TIME_FIRST_OUTPUT = 11,/* the first byte from the container's stdout or stderr */
  CLEARVM_TIME_EXITED = 12       /* EXIT received */
};

enum clearvm_failure {
  CLEARVM_FAILURE_CONFIG = 1,    /* the VMM's options or fds are wrong */
  CLEARVM_FAILURE_KVM = 2,       /* a KVM call failed, or an exit that the VMM does not handle */
  CLEARVM_FAILURE_KERNEL = 3,    /* the kernel image cannot be loaded */
  CLEARVM_FAILURE_SHUTDOWN = 4,  /* KVM_EXIT_SHUTDOWN: the guest triple-faulted or reset itself */
  CLEARVM_FAILURE_PANIC = 5,     /* the guest kernel panicked */
  CLEARVM_FAILURE_AGENT = 6,     /* init broke the protocol or closed its control stream */
  CLEARVM_FAILURE_PROCESS = 7,   /* the container's process could not be started (exit code 125 to 127) */
  CLEARVM_FAILURE_JAIL = 8,      /* the jail could not be entered */
  CLEARVM_FAILURE_DEVICE = 9     /* a device of the VMM failed */
};

#endif
