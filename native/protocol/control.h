/*
 * The protocol on the VMM's sockets: frames as in agent.h (struct clearvm_frame), with `process` renamed:
 * requests carry a number of the sender's choice there, and replies repeat it.
 *
 * The control socket is a connected Unix stream socket that the VMM inherits from the engine (or whoever started
 * it). It also inherits a listening one: any client of that may send PAUSE, RESUME, METRICS, SIGNAL, RESIZE, EXEC,
 * DETACH and SNAPSHOT, and hears of its own EXECs; at most CLEARVM_CLIENTS_MAX at a time.
 *
 * This header is the protocol's only definition; test/unit checks that src/vm/protocol.ts agrees with it.
 * Prose: docs/compatibility.md. All integers are little-endian.
 */
#ifndef CLEARVM_PROTOCOL_CONTROL_H_
#define CLEARVM_PROTOCOL_CONTROL_H_

#include "native/protocol/agent.h"

#define CLEARVM_CONTROL_VERSION 3

#define CLEARVM_CLIENTS_MAX 128 /* clients of the listening socket; those beyond get EAGAIN and are closed */
#define CLEARVM_EXECS_MAX 128   /* processes under way that EXEC has started */

enum clearvm_control_frame_type {
  /* engine to VMM; each is answered by a REPLY */
  CLEARVM_CONTROL_START = 1,   /* payload: the spec (TLVs of agent.h), handed to init when it is ready */
  CLEARVM_CONTROL_PAUSE = 2,   /* stops all vCPUs */
  CLEARVM_CONTROL_RESUME = 3,
  CLEARVM_CONTROL_STOP = 4,    /* ends the VM at once; EXIT is not sent */
  CLEARVM_CONTROL_METRICS = 5, /* the reply's payload is text, a "name value\n" each line */
  CLEARVM_CONTROL_SIGNAL = 6,  /* payload: uint32 signal number, for the container's process; or behind it the
                                  uint32 number of this client's EXEC that it is for */
  CLEARVM_CONTROL_RESIZE = 7,  /* payload: uint16 rows, uint16 columns; then as SIGNAL */
  CLEARVM_CONTROL_EXEC = 8,    /* payload: struct clearvm_exec, then a spec (TLVs of agent.h); with it come, by
                                  SCM_RIGHTS, stdin, stdout and stderr, or with a terminal its input and its output
                                  (which may be the same). Once it is accepted, STARTED and EXIT, or FAILURE, follow
                                  with its number. A client that goes away leaves the process running; but if
                                  its terminal was the client's, that hangs up */
  CLEARVM_CONTROL_DETACH = 9,  /* payload: uint32 number of this client's EXEC: the process runs on without a
                                  reader or a writer, and nothing more is heard of it */
  CLEARVM_CONTROL_SNAPSHOT = 10, /* no payload; with it comes, by SCM_RIGHTS, an empty file open for reading and
                                  writing. The reply comes when it holds a snapshot, and the VM is paused: until this
                                  client sends RESUME, or goes away. Its text: "name value\n" lines, as METRICS' */
  CLEARVM_CONTROL_BECOME = 11, /* the first frame to a VMM with --spare, and not answered: payload: struct clearvm_become,
                                  then its command line, a NUL behind each argument; with it come its descriptors */

  /* VMM to engine */
  CLEARVM_CONTROL_REPLY = 0x80,    /* payload: uint32 errno (0: done), then the result or a message */
  CLEARVM_CONTROL_TIMELINE = 0x81, /* payload: stamps, each uint32 enum clearvm_timeline, uint32 0,
                                      uint64 CLOCK_MONOTONIC ns; sent with STARTED and at the end */
  CLEARVM_CONTROL_STARTED = 0x82,  /* the container's process, or that of an EXEC, runs */
  CLEARVM_CONTROL_EXIT = 0x83,     /* payload: uint32 exit code, uint32 signal, and but for EXECs uint32
                                      CLEARVM_EXIT_*; all output is written out */
  CLEARVM_CONTROL_FAILURE = 0x84,  /* payload: uint32 enum clearvm_failure, uint32 exit code, uint32 length of
                                      the message, the message, then the last lines of the kernel log */
  CLEARVM_CONTROL_ORIGIN = 0x85    /* payload: uint32 enum clearvm_origin, then, where the template was not
                                      used, why; sent before STARTED where a template was named */
};

struct clearvm_exec {
  uint32_t flags;    /* CLEARVM_EXEC_* */
  uint32_t reserved; /* 0 */
};
#define CLEARVM_EXEC_TERMINAL 1u /* as the spec's CLEARVM_FLAG_TERMINAL */

#define CLEARVM_BECOME_FDS_MAX 8
struct clearvm_become {
  uint32_t count;                           /* of the descriptors that come with it: 1 to CLEARVM_BECOME_FDS_MAX */
  uint32_t numbers[CLEARVM_BECOME_FDS_MAX]; /* what each is to be called; the others 0 */
};

/* The points of the timeline that the VMM stamps (DESIGN: the life of `clearvm run`). */
enum clearvm_timeline {
  CLEARVM_TIME_VMM_START = 1,    /* main() of clearvm-vmm; of a spare, BECOME */
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
  CLEARVM_TIME_EXITED = 12,      /* EXIT received */
  CLEARVM_TIME_RESTORED = 13     /* a template's state is in place; instead of KERNEL_LOADED */
};

/* What a VM that was to be forked from a template has started from. */
enum clearvm_origin {
  CLEARVM_ORIGIN_TEMPLATE = 0, /* from it */
  CLEARVM_ORIGIN_MISSING = 1,  /* there is none: from the kernel */
  CLEARVM_ORIGIN_REFUSED = 2   /* it is damaged, or not made for this VM or host: from the kernel */
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
  CLEARVM_FAILURE_DEVICE = 9,    /* a device of the VMM failed */
  CLEARVM_FAILURE_SNAPSHOT = 10, /* the snapshot is damaged: cut short, or changed */
  CLEARVM_FAILURE_FOREIGN = 11,  /* it is of another version, or was made on another kind of host, or for another VM */
  CLEARVM_FAILURE_FILES = 12     /* what was open or locked in it is not there, or locked by somebody else */
};

#endif
