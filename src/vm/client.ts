/** A connection to the listening socket of a VMM, whoever has started it. */
import { ClearVMError, messageOf } from '../errors.js';
import type { Addon, AddonError, Channel } from './addon-types.js';
import { failureError, goneError } from './failure.js';
import { ControlFrame, EXEC_TERMINAL, FrameDecoder, encodeFrame, type Frame } from './protocol.js';
import { Requests, refusalError } from './requests.js';
import { encodeSize, uint32 } from './spec.js';
import { exitStatus, type ExitStatus } from './vmm.js';

const ENOENT = 2;
const EAGAIN = 11;
const ECONNREFUSED = 111;

/** A process that a VMM was asked to start beside the container's first one. */
export interface RemoteProcess {
  /** Resolves when it runs; rejects with ERR_PROCESS_START when it cannot. */
  readonly started: Promise<void>;
  /** Its end, after all of its output. Rejects as `started`, and with ERR_VMM_GONE when its VM ended first. */
  readonly exited: Promise<ExitStatus>;
  signal(number: number): Promise<void>;
  resize(rows: number, columns: number): Promise<void>;
  /** Lets it run on by itself; `exited` never settles then. */
  detach(): Promise<void>;
}

interface Watched {
  resolveStarted: () => void;
  resolveExited: (status: ExitStatus) => void;
  reject: (error: Error) => void;
}

export class VmmClient {
  readonly #addon: Addon;
  readonly #socket: number;
  readonly #channel: Channel;
  readonly #decoder = new FrameDecoder();
  readonly #requests = new Requests();
  readonly #processes = new Map<number, Watched>();
  #closed: Error | undefined;

  /** Connects to the socket at `path`. Errors: ERR_VMM_GONE (nobody listens), ERR_VMM_BUSY, ERR_VMM_CONNECT. */
  constructor(addon: Addon, path: string) {
    this.#addon = addon;
    try {
      this.#socket = addon.connectUnix(path);
    } catch (cause) {
      throw connectError(cause);
    }
    this.#channel = addon.openChannel(this.#socket, (chunk) => this.#receive(chunk));
  }

  /** Sends a request; its result. Errors: ERR_VMM_REQUEST, ERR_CONTAINER_PAUSED, ERR_ALREADY, ERR_VMM_BUSY, ERR_VMM_GONE. */
  request(type: number, payload: Uint8Array = Buffer.alloc(0)): Promise<Buffer> {
    if (this.#closed) return Promise.reject(this.#closed);
    const number = this.#requests.next();
    const result = this.#requests.result(number);
    this.#channel.write(encodeFrame(type, number, payload));
    return result;
  }

  /**
   * Has a snapshot written into an open, empty file, which stays the caller's. The VM then stands still until RESUME is
   * requested, or this is closed. To be the connection's first request. Returns what the VMM says of it, by name. Errors: as
   * of `request`; ERR_SNAPSHOT_FILES (an open file that a snapshot cannot hold), ERR_NO_SPACE.
   */
  async snapshot(file: number): Promise<Map<string, number>> {
    const number = this.#requests.next();
    const result = this.#requests.result(number);
    try {
      this.#addon.sendFds(
        this.#socket,
        encodeFrame(ControlFrame.SNAPSHOT, number, Buffer.alloc(0)),
        [file],
      );
    } catch {
      // It is gone: that is read as well.
    }
    const text = (await result).toString('utf8');
    return new Map(
      text.split('\n').flatMap((line) => {
        const [name = '', value] = line.split(' ');
        return value === undefined ? [] : [[name, Number(value)] as const];
      }),
    );
  }

  /**
   * Starts a process from a spec (`encodeExec`) with these descriptors, which stay the caller's: stdin, stdout and stderr, or
   * a terminal's input and output. To be the connection's first request.
   */
  exec(spec: Buffer, terminal: boolean, fds: number[]): RemoteProcess {
    const number = this.#requests.next();
    const header = Buffer.alloc(8);
    header.writeUInt32LE(terminal ? EXEC_TERMINAL : 0, 0);
    const frame = encodeFrame(ControlFrame.EXEC, number, Buffer.concat([header, spec]));
    const process = this.#watch(number);
    this.#requests
      .result(number)
      .catch((error: Error) => this.#processes.get(number)?.reject(error));
    try {
      const sent = this.#addon.sendFds(this.#socket, frame, fds);
      if (sent < frame.length) this.#channel.write(frame.subarray(sent));
    } catch {
      // It is gone: that is read as well.
    }
    const about = uint32(number);
    return {
      ...process,
      signal: async (signal) => {
        await this.request(ControlFrame.SIGNAL, Buffer.concat([uint32(signal), about]));
      },
      resize: async (rows, columns) => {
        await this.request(ControlFrame.RESIZE, Buffer.concat([encodeSize(rows, columns), about]));
      },
      detach: async () => {
        await this.request(ControlFrame.DETACH, about);
      },
    };
  }

  /** Closes the connection; idempotent. */
  close(): void {
    this.#end(goneError());
  }

  #watch(number: number): Pick<RemoteProcess, 'started' | 'exited'> {
    let resolveStarted!: () => void;
    let rejectStarted!: (error: Error) => void;
    const started = new Promise<void>((resolve, reject) => {
      resolveStarted = resolve;
      rejectStarted = reject;
    });
    const exited = new Promise<ExitStatus>((resolveExited, rejectExited) => {
      const reject = (error: Error): void => {
        rejectStarted(error);
        rejectExited(error);
      };
      this.#processes.set(number, { resolveStarted, resolveExited, reject });
    });
    // Whoever waits for one of the two hears of the failure; the other one must not count as unhandled.
    started.catch(() => {});
    exited.catch(() => {});
    return { started, exited };
  }

  #receive(chunk: Buffer | null): void {
    if (chunk === null) {
      this.#end(goneError());
      return;
    }
    let frames: Frame[];
    try {
      frames = this.#decoder.push(chunk);
    } catch (error) {
      this.#end(error as Error);
      return;
    }
    for (const frame of frames) this.#handle(frame);
  }

  #handle({ type, request, payload }: Frame): void {
    const process = this.#processes.get(request);
    if (type === ControlFrame.REPLY && request === 0 && payload.length >= 4) {
      // It takes no more clients.
      this.#end(refusalError(payload.readUInt32LE(0), payload.subarray(4)));
    } else if (type === ControlFrame.REPLY) {
      this.#requests.settle(request, payload);
    } else if (type === ControlFrame.STARTED) {
      process?.resolveStarted();
    } else if (type === ControlFrame.EXIT && payload.length >= 8) {
      process?.resolveExited(exitStatus(payload.readUInt32LE(0), payload.readUInt32LE(4)));
      this.#processes.delete(request);
    } else if (type === ControlFrame.FAILURE) {
      process?.reject(failureError(payload));
      this.#processes.delete(request);
    }
  }

  #end(error: Error): void {
    if (this.#closed) return;
    this.#closed = error;
    this.#channel.close();
    this.#requests.fail(error);
    for (const { reject } of this.#processes.values()) reject(error);
    this.#processes.clear();
  }
}

function connectError(cause: unknown): ClearVMError {
  const errno = (cause as AddonError).errno;
  if (errno === ENOENT || errno === ECONNREFUSED) return goneError();
  if (errno === EAGAIN) {
    return new ClearVMError('ERR_VMM_BUSY', 'the VMM has too many clients: try again', { cause });
  }
  return new ClearVMError('ERR_VMM_CONNECT', `cannot reach the VMM: ${messageOf(cause)}`, {
    cause,
  });
}
