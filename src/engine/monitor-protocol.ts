/** The constants of native/protocol/monitor.h; a unit test checks that they agree. */

export const MONITOR_FRAME_MAX = 64 * 1024;
/** Bytes of one of the two files of the journal of events. */
export const JOURNAL_MAX = 1024 * 1024;
/** The longest time that a health check's options may say, ms. */
export const HEALTH_MAX_MS = 3_155_760_000_000;

export const MonitorTag = {
  VMM: 1,
  ARG: 2,
  KERNEL: 3,
  INITRD: 4,
  SPEC: 5,
  ID: 6,
  LOG: 7,
  RESTART: 8,
  STDIO: 9,
  STOP: 10,
  REMOVE: 11,
  EVENTS: 12,
  ACTOR: 13,
  HEALTH: 14,
  FIRST_ARG: 15,
} as const;

export const Restart = {
  NO: 0,
  ON_FAILURE: 1,
  ALWAYS: 2,
  UNLESS_STOPPED: 3,
} as const;

export const StdioFlag = {
  TERMINAL: 1,
  STDIN: 2,
  STDIN_ONCE: 4,
} as const;

export const MonitorFrame = {
  DO_STOP: 1,
  DO_KILL: 2,
  DO_WAIT: 3,
  DO_ATTACH: 4,
  STDIN: 5,
  STDIN_END: 6,
  DO_RESIZE: 7,
  DO_UPDATE: 8,
  REPLY: 0x80,
  OUT: 0x81,
  ERR: 0x82,
  EXITED: 0x83,
  ERROR: 0x90,
} as const;

export const AttachFlag = {
  STDIN: 1,
  STDOUT: 2,
  STDERR: 4,
  HOLD: 8,
} as const;
