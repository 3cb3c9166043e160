/**
 * The frames of native/protocol/agent.h and control.h. Those headers define the protocol; a unit test checks
 * that every constant here agrees with them. All integers are little-endian.
 */
import { ClearVMError } from '../errors.js';

export const CONTROL_VERSION = 3;
export const AGENT_VERSION = 5;
/** The largest payload of a frame, bytes. */
export const FRAME_MAX = 1 << 20;
/** length u32, type u16, reserved u16, request number u32. */
export const FRAME_HEADER = 12;
/** tag u16, reserved u16, length u32. */
export const TLV_HEADER = 8;

export const ControlFrame = {
  START: 1,
  PAUSE: 2,
  RESUME: 3,
  STOP: 4,
  METRICS: 5,
  SIGNAL: 6,
  RESIZE: 7,
  EXEC: 8,
  DETACH: 9,
  SNAPSHOT: 10,
  BECOME: 11,
  REPLY: 0x80,
  TIMELINE: 0x81,
  STARTED: 0x82,
  EXIT: 0x83,
  FAILURE: 0x84,
  ORIGIN: 0x85,
} as const;

export const Timeline = {
  VMM_START: 1,
  VMM_JAILED: 2,
  VM_CREATED: 3,
  KERNEL_LOADED: 4,
  GUEST_ENTRY: 5,
  INIT: 6,
  AGENT_READY: 7,
  ROOT_MOUNTED: 8,
  EXEC: 9,
  STARTED: 10,
  FIRST_OUTPUT: 11,
  EXITED: 12,
  RESTORED: 13,
} as const;

/** What a VM that was to be forked from a template has started from. */
export const Origin = {
  TEMPLATE: 0,
  MISSING: 1,
  REFUSED: 2,
} as const;

export const Failure = {
  CONFIG: 1,
  KVM: 2,
  KERNEL: 3,
  SHUTDOWN: 4,
  PANIC: 5,
  AGENT: 6,
  PROCESS: 7,
  JAIL: 8,
  DEVICE: 9,
  SNAPSHOT: 10,
  FOREIGN: 11,
  FILES: 12,
} as const;

export const SpecTag = {
  ARG: 1,
  ENV: 2,
  CWD: 3,
  USER: 4,
  HOSTNAME: 5,
  MOUNT: 6,
  RLIMIT: 7,
  CAPS: 8,
  FLAGS: 9,
  GROUP: 10,
  FILE: 11,
  WINSIZE: 12,
  SYSCTL: 13,
  ROOT: 14,
  MASK: 15,
  READONLY: 16,
  PIDS: 17,
  OOM_SCORE: 18,
} as const;

export const SpecFlag = {
  TERMINAL: 1,
  STDIN: 2,
  NO_NEW_PRIVS: 4,
  READONLY_ROOT: 8,
  BUILTIN: 16,
} as const;

export const MOUNT_FILE = 1;
/** In `struct clearvm_exec`. */
export const EXEC_TERMINAL = 1;

export interface Frame {
  type: number;
  /** The number of the request that this frame is or answers; 0 for events. */
  request: number;
  payload: Buffer;
}

/** One frame as bytes. Errors: ERR_FRAME_TOO_LARGE. */
export function encodeFrame(type: number, request: number, payload: Uint8Array): Buffer {
  if (payload.length > FRAME_MAX) {
    throw new ClearVMError(
      'ERR_FRAME_TOO_LARGE',
      `a frame of type ${type} has ${payload.length} bytes of payload; the protocol allows ${FRAME_MAX}`,
    );
  }
  const frame = Buffer.allocUnsafe(FRAME_HEADER + payload.length);
  frame.writeUInt32LE(payload.length, 0);
  frame.writeUInt16LE(type, 4);
  frame.writeUInt16LE(0, 6);
  frame.writeUInt32LE(request, 8);
  frame.set(payload, FRAME_HEADER);
  return frame;
}

/** Cuts a byte stream into frames, however the stream is chopped up. */
export class FrameDecoder {
  #pending: Buffer = Buffer.alloc(0);

  /**
   * The frames that `chunk` completes, in order. Errors: ERR_FRAME_TOO_LARGE, after which the stream is out of step and
   * must be closed.
   */
  push(chunk: Buffer): Frame[] {
    let data = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const frames: Frame[] = [];
    while (data.length >= FRAME_HEADER) {
      const length = data.readUInt32LE(0);
      if (length > FRAME_MAX) {
        throw new ClearVMError(
          'ERR_FRAME_TOO_LARGE',
          `the VMM announced a frame of ${length} bytes; the protocol allows ${FRAME_MAX}`,
        );
      }
      if (data.length < FRAME_HEADER + length) break;
      frames.push({
        type: data.readUInt16LE(4),
        request: data.readUInt32LE(8),
        payload: data.subarray(FRAME_HEADER, FRAME_HEADER + length),
      });
      data = data.subarray(FRAME_HEADER + length);
    }
    this.#pending = data;
    return frames;
  }
}

/**
 * Collects TLVs. Half a hundred of them lie on the way to every container: they are strung together as text with a character for
 * each byte, because a string costs less than calls into a Buffer, and become bytes at the end.
 */
export class TlvWriter {
  #out = '';

  /** Adds one TLV whose value is the pieces, one behind the other; strings go in as UTF-8. */
  add(tag: number, ...pieces: (string | Uint8Array)[]): this {
    let value = '';
    for (const piece of pieces) value += toBinary(piece);
    const { length } = value;
    this.#out +=
      String.fromCharCode(
        tag & 0xff,
        tag >>> 8,
        0,
        0,
        length & 0xff,
        (length >>> 8) & 0xff,
        (length >>> 16) & 0xff,
        length >>> 24,
      ) + value;
    return this;
  }

  /** Adds what another writer was given. */
  addAll(other: TlvWriter): this {
    this.#out += other.#out;
    return this;
  }

  /** The bytes of everything added. */
  finish(): Buffer {
    return Buffer.from(this.#out, 'latin1');
  }
}

/** Bytes as a string with a character for each. */
function toBinary(piece: string | Uint8Array): string {
  if (typeof piece !== 'string') {
    return Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength).toString('latin1');
  }
  // As many bytes as characters: it is ASCII.
  return Buffer.byteLength(piece) === piece.length ? piece : Buffer.from(piece).toString('latin1');
}
