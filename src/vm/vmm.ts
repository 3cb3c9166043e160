/** One clearvm-vmm process as seen from TypeScript: its start, its control socket, its end. */
import { Socket } from 'node:net';

import { ClearVMError, EXIT_ENGINE, messageOf } from '../errors.js';
import type { Addon, SpawnedVmm } from './addon-types.js';
import { vmmArguments, type VmConfig } from './config.js';
import { signalName } from './constants.js';
import { ControlFrame, Failure, FrameDecoder, encodeFrame, type Frame } from './protocol.js';
import { openStream } from './stdio.js';
import type { TimelineRecorder } from './timings.js';

export interface VmmOptions {
  addon: Addon;
  /** Path of the executable. */
  file: string;
  config: VmConfig;
  /** Open descriptors of the kernel and the initramfs; they stay the caller's. */
  kernelFd: number;
  initrdFd: number;
  /** The START frame's payload (`encodeSpec`). */
  spec: Buffer;
  /** stdin, stdout and stderr of the container; -1 is /dev/null. */
  stdio: number[];
  /** Where the guest kernel's log is copied to; without it the last of it is kept for error messages. */
  consoleFd?: number;
  timeline: TimelineRecorder;
}

/** How the container's process ended. */
export interface ExitStatus {
  /** 0 to 255; 128 + n when signal n ended the process. */
  exitCode: number;
  /** The signal's name, or null when the process exited by itself. */
  signal: string | null;
}

/** Error codes of FAILURE events: a cause each. */
const FAILURES: Readonly<Record<number, { code: string; prefix: string }>> = {
  [Failure.CONFIG]: { code: 'ERR_VMM_CONFIG', prefix: 'the VMM refused its configuration' },
  [Failure.KVM]: { code: 'ERR_KVM', prefix: 'KVM failed' },
  [Failure.KERNEL]: { code: 'ERR_KERNEL_IMAGE', prefix: 'the guest kernel cannot be loaded' },
  [Failure.SHUTDOWN]: { code: 'ERR_GUEST_SHUTDOWN', prefix: 'the guest shut itself down' },
  [Failure.PANIC]: { code: 'ERR_GUEST_PANIC', prefix: 'the guest kernel panicked' },
  [Failure.AGENT]: { code: 'ERR_AGENT', prefix: "the guest's init failed" },
  [Failure.PROCESS]: { code: 'ERR_PROCESS_START', prefix: 'the command cannot be started' },
  [Failure.JAIL]: { code: 'ERR_JAIL', prefix: 'the VMM cannot enter its jail' },
  [Failure.DEVICE]: { code: 'ERR_DEVICE', prefix: 'a device of the VM failed' },
};

/** Bytes of the kernel log that are kept for error messages. */
const LOG_KEPT = 16 * 1024;

/** How long the control socket may stay silent after the VMM's end before its last frames count as lost. */
const DRAIN_MS = 1000;

interface Pending {
  resolve: (result: Buffer) => void;
  reject: (error: Error) => void;
}

export class Vmm {
  /** Resolves when the container's process runs; rejects with a ClearVMError when it cannot. */
  readonly started: Promise<void>;
  /** The process's end; rejects with a ClearVMError when the VM ended otherwise. */
  readonly exited: Promise<ExitStatus>;
  /** Resolves when the VMM's process is gone and all it said has been heard. Never rejects. */
  readonly gone: Promise<void>;

  readonly #process: SpawnedVmm;
  readonly #timeline: TimelineRecorder;
  readonly #control: Socket;
  readonly #decoder = new FrameDecoder();
  readonly #pending = new Map<number, Pending>();
  #lastRequest = 1;
  #log: LogTail | undefined;
  #end: { code: number | null; signal: number | null } | undefined;
  #settled = false;
  #finished = false;
  #stopped: Error | undefined;
  #resolveStarted!: () => void;
  #rejectStarted!: (error: Error) => void;
  #resolveExited!: (status: ExitStatus) => void;
  #rejectExited!: (error: Error) => void;
  #resolveGone!: () => void;

  /**
   * Spawns the VMM and sends it the spec without waiting for anything.
   * Errors: ERR_VMM_SPAWN.
   */
  constructor(options: VmmOptions) {
    const { addon } = options;
    this.#timeline = options.timeline;
    this.started = new Promise((resolve, reject) => {
      this.#resolveStarted = resolve;
      this.#rejectStarted = reject;
    });
    this.exited = new Promise((resolve, reject) => {
      this.#resolveExited = resolve;
      this.#rejectExited = reject;
    });
    this.gone = new Promise((resolve) => {
      this.#resolveGone = resolve;
    });
    // Whoever waits for one of these two hears of the failure; the other one must not count as unhandled.
    this.started.catch(() => {});
    this.exited.catch(() => {});

    const [ours, theirs] = addon.socketPair();
    const console = options.consoleFd === undefined ? addon.pipe() : undefined;
    const consoleFd = console ? console[1] : (options.consoleFd as number);
    try {
      this.#process = this.#spawn(options, theirs, consoleFd);
    } catch (cause) {
      for (const fd of [ours, ...(console ?? [])]) addon.closeFd(fd);
      throw new ClearVMError(
        'ERR_VMM_SPAWN',
        `cannot start the VMM ${options.file}: ${messageOf(cause)}; build it with \`npm run build\`, and run \`clearvm doctor\``,
        { cause },
      );
    } finally {
      addon.closeFd(theirs);
    }
    if (console) {
      addon.closeFd(console[1]);
      this.#log = new LogTail(console[0]);
    }
    this.#control = new Socket({ fd: ours, readable: true, writable: true, allowHalfOpen: true });
    this.#control.on('data', (chunk) => this.#receive(chunk));
    this.#control.on('end', () => this.#control.destroy());
    this.#control.on('error', () => this.#control.destroy());
    this.#control.on('close', () => this.#finish());
    this.#control.write(encodeFrame(ControlFrame.START, this.#lastRequest, options.spec));
    options.timeline.mark('spawned');
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Sends a signal to the container's process. */
  async signal(number: number): Promise<void> {
    const payload = Buffer.allocUnsafe(4);
    payload.writeUInt32LE(number, 0);
    await this.request(ControlFrame.SIGNAL, payload);
  }

  /** The VMM's counters by name. */
  async metrics(): Promise<Record<string, number>> {
    const text = (await this.request(ControlFrame.METRICS)).toString('utf8');
    const metrics: Record<string, number> = {};
    for (const line of text.split('\n')) {
      const space = line.lastIndexOf(' ');
      if (space > 0) metrics[line.slice(0, space)] = Number(line.slice(space + 1));
    }
    return metrics;
  }

  /** Sends a request; its result. Errors: ERR_VMM_REQUEST (refused), ERR_VMM_GONE (the VM has ended). */
  request(type: number, payload: Uint8Array = Buffer.alloc(0)): Promise<Buffer> {
    if (this.#control.destroyed) return Promise.reject(goneError());
    this.#lastRequest = this.#lastRequest >= 0xffff_ffff ? 1 : this.#lastRequest + 1;
    const number = this.#lastRequest;
    return new Promise((resolve, reject) => {
      this.#pending.set(number, { resolve, reject });
      this.#control.write(encodeFrame(type, number, payload));
    });
  }

  /** Ends the VM at once, as pulling the plug does. With a `reason`, `started` and `exited` reject with it. */
  destroy(reason?: Error): void {
    if (this.#end) return;
    if (reason) this.#settleFailure(reason);
    else this.#stopped = goneError();
    try {
      this.#process.kill(9);
    } catch {
      // It is gone already: the pidfd's event is on its way.
    }
  }

  #spawn(options: VmmOptions, control: number, console: number): SpawnedVmm {
    const log = options.config.debug ? 2 : -1;
    const fds = [
      -1,
      -1,
      log,
      control,
      options.kernelFd,
      options.initrdFd,
      console,
      ...options.stdio,
    ];
    const args = [
      ...['--control-fd', '3', '--kernel-fd', '4', '--initrd-fd', '5', '--console-fd', '6'],
      ...['--stdout-fd', '8', '--stderr-fd', '9', '--jail', 'spawned'],
      ...(options.stdio[0] === -1 ? [] : ['--stdin-fd', '7']),
      ...vmmArguments(options.config),
    ];
    return options.addon.spawnVmm(
      { file: options.file, args, fds, namespaces: true },
      (code, signal) => {
        this.#timeline.mark('vmm.gone');
        this.#end = { code, signal };
        if (this.#control.destroyed) {
          this.#finish();
          return;
        }
        // Its end of the socket is closed, so that `end` follows the last frame; unless some other process
        // that should not exist holds a copy.
        setTimeout(() => this.#control.destroy(), DRAIN_MS).unref();
      },
    );
  }

  #receive(chunk: Buffer): void {
    let frames: Frame[];
    try {
      frames = this.#decoder.push(chunk);
    } catch (error) {
      this.#settleFailure(error as Error);
      this.destroy();
      return;
    }
    for (const frame of frames) this.#handle(frame);
  }

  #handle({ type, request, payload }: Frame): void {
    switch (type) {
      case ControlFrame.TIMELINE:
        this.#timeline.addStamps(payload);
        break;
      case ControlFrame.STARTED:
        this.#timeline.mark('started');
        this.#log?.open();
        this.#resolveStarted();
        break;
      case ControlFrame.EXIT:
        if (payload.length >= 8) {
          this.#settleExit(payload.readUInt32LE(0), payload.readUInt32LE(4));
        }
        break;
      case ControlFrame.FAILURE:
        this.#settleFailure(failureError(payload));
        break;
      case ControlFrame.REPLY:
        this.#reply(request, payload);
        break;
      default:
        // A newer VMM may know events that this engine does not.
        break;
    }
  }

  #reply(request: number, payload: Buffer): void {
    const pending = this.#pending.get(request);
    if (!pending || payload.length < 4) return;
    this.#pending.delete(request);
    const errno = payload.readUInt32LE(0);
    const rest = payload.subarray(4);
    if (errno === 0) {
      pending.resolve(rest);
    } else {
      pending.reject(
        new ClearVMError(
          'ERR_VMM_REQUEST',
          rest.toString('utf8') || `the VMM refused: errno ${errno}`,
        ),
      );
    }
  }

  #settleExit(exitCode: number, signal: number): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#timeline.mark('exited');
    this.#resolveStarted();
    this.#resolveExited(
      signal === 0
        ? { exitCode: exitCode & 0xff, signal: null }
        : { exitCode: 128 + signal, signal: signalName(signal) },
    );
  }

  #settleFailure(error: Error): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#rejectStarted(error);
    this.#rejectExited(error);
  }

  /** Called when the socket has closed and when the process has ended: acts when both have happened. */
  #finish(): void {
    if (!this.#end) {
      // A VMM that closes its socket and lives on is out of control.
      setTimeout(() => this.destroy(), DRAIN_MS).unref();
      return;
    }
    if (this.#finished) return;
    this.#finished = true;
    for (const { reject } of this.#pending.values()) reject(goneError());
    this.#pending.clear();
    void this.#settleEnd(this.#end).then(() => this.#resolveGone());
  }

  async #settleEnd(end: { code: number | null; signal: number | null }): Promise<void> {
    if (!this.#settled) {
      if (this.#stopped) {
        this.#settleExit(0, 9);
      } else {
        const kernelLog = (await this.#log?.readAll()) ?? '';
        this.#settleFailure(endError(end, kernelLog));
      }
    }
    this.#log?.close();
  }
}

/** The end of the kernel's log, read from a pipe: bounded, whatever the guest prints. */
class LogTail {
  readonly #fd: number;
  #socket: Socket | undefined;
  #tail: Buffer = Buffer.alloc(0);

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Begins to read. Until then the pipe holds what the kernel says, so that a start need not pay for it. */
  open(): Socket {
    if (this.#socket) return this.#socket;
    const socket = openStream(this.#fd, true);
    this.#socket = socket;
    socket.on('data', (chunk) => {
      const tail = Buffer.concat([this.#tail, chunk]);
      this.#tail = tail.length > LOG_KEPT ? Buffer.from(tail.subarray(-LOG_KEPT)) : tail;
    });
    socket.on('error', () => socket.destroy());
    // A container that waits must be kept alive by its control socket, not by a log.
    socket.unref();
    return socket;
  }

  /** Everything that was kept, when the writer has gone. */
  async readAll(): Promise<string> {
    const socket = this.open();
    if (!socket.readableEnded && !socket.destroyed) {
      socket.ref();
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, DRAIN_MS);
        socket.once('close', () => {
          clearTimeout(timer);
          resolve();
        });
        socket.once('end', () => socket.destroy());
      });
    }
    return this.#tail.toString('utf8');
  }

  close(): void {
    this.open().destroy();
  }
}

/** A FAILURE event's payload as an error. */
export function failureError(payload: Buffer): ClearVMError {
  if (payload.length < 12) {
    return new ClearVMError('ERR_VMM_PROTOCOL', 'the VMM reported a failure in a frame cut short');
  }
  const kind = payload.readUInt32LE(0);
  const exitCode = payload.readUInt32LE(4);
  const length = Math.min(payload.readUInt32LE(8), payload.length - 12);
  const message = payload.toString('utf8', 12, 12 + length).trim();
  const kernelLog = payload.toString('utf8', 12 + length).trimEnd();
  const known = FAILURES[kind] ?? { code: 'ERR_VMM', prefix: 'the VMM failed' };
  const reason = /Kernel panic - not syncing: (.+)/.exec(kernelLog)?.[1];
  const text = kind === Failure.PANIC && reason !== undefined ? reason : message;
  return new ClearVMError(
    known.code,
    kind === Failure.PROCESS || text === known.prefix ? text : `${known.prefix}: ${text}`,
    {
      exitCode: exitCode >= EXIT_ENGINE && exitCode <= 127 ? exitCode : EXIT_ENGINE,
      ...(kernelLog === '' ? {} : { kernelLog }),
    },
  );
}

function endError(
  end: { code: number | null; signal: number | null },
  kernelLog: string,
): ClearVMError {
  const options = kernelLog === '' ? {} : { kernelLog: kernelLog.trimEnd() };
  const silence = kernelLog === '' ? ' (the guest kernel had logged nothing)' : '';
  return end.signal === null
    ? new ClearVMError(
        'ERR_VMM_ENDED',
        `the VMM ended with status ${end.code} without a word; run again with --debug, and report it${silence}`,
        options,
      )
    : new ClearVMError(
        'ERR_VMM_KILLED',
        `the VMM was killed by signal ${end.signal} (${signalName(end.signal)}): not by the container; look for the out-of-memory killer in the host's log, or for who sent it${silence}`,
        options,
      );
}

function goneError(): ClearVMError {
  return new ClearVMError('ERR_VMM_GONE', 'the container has ended');
}
