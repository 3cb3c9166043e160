/**
 * The frames of native/protocol/agent.h and control.h. Those headers define the protocol; a unit test checks
 * that every constant here agrees with them. All integers are little-endian.
 */
import { ClearVMError } from '../errors.js';

export const CONTROL_VERSION = 1;
export const AGENT_VERSION = 1;
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
  REPLY: 0x80,
  TIMELINE: 0x81,
  STARTED: 0x82,
  EXIT: 0x83,
  FAILURE: 0x84,
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
  TIME: 15,
} as const;

export const SpecFlag = {
  TERMINAL: 1,
  STDIN: 2,
  NO_NEW_PRIVS: 4,
  READONLY_ROOT: 8,
} as const;

export const MOUNT_FILE = 1;

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

/** Collects TLVs into one buffer: sizes are summed first, so that the bytes are written once. */
export class TlvWriter {
  #parts: { tag: number; pieces: (string | Uint8Array)[]; length: number }[] = [];
  #size = 0;

  /** Adds one TLV whose value is the pieces, one behind the other; strings go in as UTF-8. */
  add(tag: number, ...pieces: (string | Uint8Array)[]): this {
    let length = 0;
    for (const piece of pieces) {
      length += typeof piece === 'string' ? Buffer.byteLength(piece) : piece.length;
    }
    this.#parts.push({ tag, pieces, length });
    this.#size += TLV_HEADER + length;
    return this;
  }

  /** The bytes of everything added. */
  finish(): Buffer {
    const out = Buffer.allocUnsafe(this.#size);
    let at = 0;
    for (const { tag, pieces, length } of this.#parts) {
      at = out.writeUInt16LE(tag, at);
      at = out.writeUInt16LE(0, at);
      at = out.writeUInt32LE(length, at);
      for (const piece of pieces) {
        if (typeof piece === 'string') {
          at += out.write(piece, at, 'utf8');
        } else {
          out.set(piece, at);
          at += piece.length;
        }
      }
    }
    return out;
  }
}
