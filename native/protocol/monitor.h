/*
 * What a container's monitor (clearvm-monitor) is given, and what is said on its socket.
 *
 * The start request is the file `start` in the container's runtime directory: TLVs as in agent.h, written by
 * the engine before each start. On the socket (`monitor.sock` there, and a connected one that the monitor may
 * inherit) go frames as in agent.h, `process` being a number of the client's choice that the reply repeats. On the
 * report pipe go frames of control.h as the VMM has sent them (ORIGIN, TIMELINE, STARTED, FAILURE), or one ERROR.
 *
 * This header is the protocol's only definition; test/unit checks that src/engine/monitor-protocol.ts agrees with
 * it. Prose: docs/compatibility.md. All integers are little-endian.
 */
#ifndef CLEARVM_PROTOCOL_MONITOR_H_
#define CLEARVM_PROTOCOL_MONITOR_H_

#include "native/protocol/agent.h"

/* The largest payload of a client's frame, bytes. */
#define CLEARVM_MONITOR_FRAME_MAX (64u * 1024)

enum clearvm_monitor_tag {
  CLEARVM_MONITOR_VMM = 1,     /* path of clearvm-vmm */
  CLEARVM_MONITOR_ARG = 2,     /* one argument for it; repeated, in order. Descriptors: enum clearvm_vmm_fd */
  CLEARVM_MONITOR_KERNEL = 3,  /* path of the guest kernel */
  CLEARVM_MONITOR_INITRD = 4,  /* path of the initramfs */
  CLEARVM_MONITOR_SPEC = 5,    /* the payload of START */
  CLEARVM_MONITOR_ID = 6,      /* the container's id */
  CLEARVM_MONITOR_LOG = 7,     /* uint64 bytes of a log file before it is rotated (0: never), uint32 files (0: no log) */
  CLEARVM_MONITOR_RESTART = 8, /* uint32 enum clearvm_restart, uint32 most restarts (0: any number) */
  CLEARVM_MONITOR_STDIO = 9,   /* uint32 of CLEARVM_STDIO_* */
  CLEARVM_MONITOR_STOP = 10,   /* uint32 signal, uint32 seconds: how SIGTERM to the monitor ends the container */
  CLEARVM_MONITOR_REMOVE = 11, /* absolute path that goes when the container has ended for good; repeated */
  CLEARVM_MONITOR_EVENTS = 12, /* absolute path of the directory of the journal of events; none: they are not noted */
  CLEARVM_MONITOR_ACTOR = 13,  /* what events say of the container: a JSON object of strings */
  CLEARVM_MONITOR_HEALTH = 14, /* uint64 interval, timeout, start period and start interval, ms, each at most
                                  CLEARVM_HEALTH_MAX_MS and only the start period 0; uint32 retries; then the spec of
                                  an EXEC (TLVs of agent.h): the health check */
  CLEARVM_MONITOR_FIRST_ARG = 15, /* as ARG, in place of these for the first run alone */
};

#define CLEARVM_JOURNAL_MAX (1024u * 1024) /* bytes of one of the journal's two files */
#define CLEARVM_HEALTH_MAX_MS 3155760000000ull /* 100 years */

/* The VMM's descriptors, as the arguments name them. */
enum clearvm_vmm_fd {
  CLEARVM_VMM_FD_CONTROL = 3,
  CLEARVM_VMM_FD_KERNEL = 4,
  CLEARVM_VMM_FD_INITRD = 5,
  CLEARVM_VMM_FD_CONSOLE = 6,
  CLEARVM_VMM_FD_STDIN = 7,
  CLEARVM_VMM_FD_STDOUT = 8,
  CLEARVM_VMM_FD_STDERR = 9,
  CLEARVM_VMM_FD_LISTENER = 10 /* bound by the monitor at vmm.sock */
};

enum clearvm_restart {
  CLEARVM_RESTART_NO = 0,
  CLEARVM_RESTART_ON_FAILURE = 1,
  CLEARVM_RESTART_ALWAYS = 2,
  CLEARVM_RESTART_UNLESS_STOPPED = 3
};

#define CLEARVM_STDIO_TERMINAL 1u   /* one stream in both directions */
#define CLEARVM_STDIO_STDIN 2u      /* stdin is a pipe that clients write to, else /dev/null */
#define CLEARVM_STDIO_STDIN_ONCE 4u /* it ends with the first client that writes to it */

enum clearvm_monitor_frame_type {
  /* client to monitor; STOP, KILL, RESIZE, UPDATE and ATTACH are answered by a REPLY */
  CLEARVM_MONITOR_DO_STOP = 1,   /* uint32 signal, uint32 seconds until the VM is ended (0xffffffff: never); not
                                    restarted after it. The reply comes when nothing of the run is left */
  CLEARVM_MONITOR_DO_KILL = 2,   /* uint32 signal, uint32 1: not to be restarted after it. SIGKILL's reply comes as
                                    STOP's does */
  CLEARVM_MONITOR_DO_WAIT = 3,   /* answered by EXITED when the command ends next */
  CLEARVM_MONITOR_DO_ATTACH = 4, /* uint32 of CLEARVM_ATTACH_*; from now on OUT and ERR frames, and EXITED at the end */
  CLEARVM_MONITOR_STDIN = 5,     /* bytes for stdin */
  CLEARVM_MONITOR_STDIN_END = 6,
  CLEARVM_MONITOR_DO_RESIZE = 7, /* uint16 rows, uint16 columns */
  CLEARVM_MONITOR_DO_UPDATE = 8, /* uint32 enum clearvm_restart, uint32 most restarts */

  /* monitor to client */
  CLEARVM_MONITOR_REPLY = 0x80,  /* uint32 errno (0: done), then a message */
  CLEARVM_MONITOR_OUT = 0x81,    /* bytes of stdout, or of the terminal */
  CLEARVM_MONITOR_ERR = 0x82,    /* bytes of stderr */
  CLEARVM_MONITOR_EXITED = 0x83, /* uint32 exit code, uint32 signal */
  /* on the report pipe */
  CLEARVM_MONITOR_ERROR = 0x90   /* "ERR_CODE message": the VMM was not started */
};

#define CLEARVM_ATTACH_STDIN 1u
#define CLEARVM_ATTACH_STDOUT 2u
#define CLEARVM_ATTACH_STDERR 4u
/* The container's output waits for this client. One without it that reads too slowly is let go of. */
#define CLEARVM_ATTACH_HOLD 8u

#endif
