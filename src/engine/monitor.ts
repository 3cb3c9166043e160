/** A container's monitor (docs/decisions/monitor.md) as seen from the engine: its start, and what it is asked. */
import { closeSync, constants, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';

import { ClearVMError, messageOf } from '../errors.js';
import type { Addon } from '../vm/addon-types.js';
import { failureError } from '../vm/failure.js';
import { loadAddon } from '../vm/native.js';
import {
  ControlFrame,
  FrameDecoder,
  Origin,
  TlvWriter,
  encodeFrame,
  type Frame,
} from '../vm/protocol.js';
import { signalName } from '../vm/constants.js';
import type { ExitStatus } from '../vm/vmm.js';
import {
  MONITOR_FRAME_MAX,
  MonitorFrame,
  MonitorTag,
  Restart,
  StdioFlag,
} from './monitor-protocol.js';
import { actorOf } from './events.js';
import type { ContainerRecord, RestartPolicy } from './record.js';
import { signalNumber } from './signals.js';

export const DEFAULT_STOP_TIMEOUT = 10;
const FOREVER = 0xffff_ffff;

export interface StartRequest {
  record: ContainerRecord;
  vmmPath: string;
  /** The VMM's. */
  args: readonly string[];
  /** Those of the first run, where they are others. */
  firstArgs?: readonly string[];
  kernelPath: string;
  initrdPath: string;
  spec: Buffer;
  /** What goes when the container has ended for good. */
  remove: readonly string[];
  /** The directory of the journal of events. */
  events: string;
  /** `encodeHealth`. */
  health?: Buffer | undefined;
}

const POLICY_NUMBERS = {
  no: Restart.NO,
  'on-failure': Restart.ON_FAILURE,
  always: Restart.ALWAYS,
  'unless-stopped': Restart.UNLESS_STOPPED,
} as const;

function numbers(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeUInt32LE(value, 4 * index));
  return bytes;
}

export function encodeRestartPolicy(policy: RestartPolicy): Buffer {
  return numbers(POLICY_NUMBERS[policy.name], policy.maximumRetryCount);
}

/** What `stop` sends, and how many seconds later it pulls the plug. */
export function stopDefaults(record: ContainerRecord): { signal: number; seconds: number } {
  return {
    signal: signalNumber(record.stopSignal ?? 'SIGTERM'),
    seconds: record.stopTimeout ?? DEFAULT_STOP_TIMEOUT,
  };
}

/** The start request as the monitor reads it. */
export function encodeStartRequest(request: StartRequest): Buffer {
  const { record } = request;
  const tlvs = new TlvWriter();
  tlvs.add(MonitorTag.ID, record.id);
  tlvs.add(MonitorTag.VMM, request.vmmPath);
  for (const argument of request.args) tlvs.add(MonitorTag.ARG, argument);
  for (const argument of request.firstArgs ?? []) tlvs.add(MonitorTag.FIRST_ARG, argument);
  tlvs.add(MonitorTag.KERNEL, request.kernelPath);
  tlvs.add(MonitorTag.INITRD, request.initrdPath);
  tlvs.add(MonitorTag.SPEC, request.spec);
  const log = Buffer.alloc(12);
  log.writeBigUInt64LE(BigInt(record.log.maxSize), 0);
  log.writeUInt32LE(record.log.driver === 'none' ? 0 : record.log.maxFile, 8);
  tlvs.add(MonitorTag.LOG, log);
  tlvs.add(MonitorTag.RESTART, encodeRestartPolicy(record.restart));
  const stdio =
    (record.tty ? StdioFlag.TERMINAL : 0) |
    (record.openStdin ? StdioFlag.STDIN : 0) |
    (record.stdinOnce ? StdioFlag.STDIN_ONCE : 0);
  tlvs.add(MonitorTag.STDIO, numbers(stdio));
  const { signal, seconds } = stopDefaults(record);
  tlvs.add(MonitorTag.STOP, numbers(signal, seconds < 0 ? FOREVER : seconds));
  for (const path of request.remove) tlvs.add(MonitorTag.REMOVE, path);
  tlvs.add(MonitorTag.EVENTS, request.events);
  tlvs.add(MonitorTag.ACTOR, JSON.stringify(actorOf(record)));
  if (request.health) tlvs.add(MonitorTag.HEALTH, request.health);
  return tlvs.finish();
}

export interface MonitorPlaces {
  /** Path of clearvm-monitor. */
  file: string;
  dataDirectory: string;
  runDirectory: string;
  /** A descriptor of a connected client; it stays the caller's to close. */
  client?: number;
}

/**
 * Starts a monitor, and returns when the command runs: whether the VM was forked from its template. Errors:
 * ERR_MONITOR_SPAWN, ERR_CONTAINER_RUNNING, ERR_STATE, and what the VMM reports.
 */
export function startMonitor(
  addon: Addon,
  places: MonitorPlaces,
  request: Buffer,
): Promise<{ forked: boolean }> {
  const { dataDirectory, runDirectory, client = -1 } = places;
  const directory = constants.O_RDONLY | constants.O_DIRECTORY;
  const fds: number[] = [];
  const open = (fd: number): number => {
    fds.push(fd);
    return fd;
  };
  let report = -1;
  try {
    mkdirSync(runDirectory, { recursive: true, mode: 0o700 });
    writeFileSync(`${runDirectory}/start`, request, { mode: 0o600 });
    const [read, write] = addon.pipe();
    report = read;
    open(write);
    const stdio = [
      ...[-1, -1, -1, write],
      ...[open(openSync(dataDirectory, directory)), open(openSync(runDirectory, directory))],
      client,
    ];
    addon.spawnVmm(
      {
        file: places.file,
        args: [
          ...['--report-fd', '3', '--data-fd', '4', '--runtime-fd', '5'],
          ...(client < 0 ? [] : ['--client-fd', '6']),
        ],
        fds: stdio,
        namespaces: false,
        background: true,
      },
      // What it has to say it says on the pipe, and in the container's state.
      () => {},
    );
  } catch (cause) {
    if (report >= 0) addon.closeFd(report);
    throw new ClearVMError(
      'ERR_MONITOR_SPAWN',
      `cannot start the monitor ${places.file}: ${messageOf(cause)}; build it with \`npm run build\`, and run \`clearvm doctor\``,
      { cause },
    );
  } finally {
    for (const fd of fds) closeSync(fd);
  }
  return readReport(addon, report);
}

function readReport(addon: Addon, fd: number): Promise<{ forked: boolean }> {
  return new Promise((resolve, reject) => {
    const decoder = new FrameDecoder();
    let forked = true;
    let error: Error | undefined = new ClearVMError(
      'ERR_MONITOR',
      "the container's monitor has ended without a word",
    );
    const take = ({ type, payload }: Frame): void => {
      if (type === ControlFrame.STARTED) error = undefined;
      else if (type === ControlFrame.FAILURE) error = failureError(payload);
      else if (type === ControlFrame.ORIGIN && payload.length >= 4) {
        forked = payload.readUInt32LE(0) === Origin.TEMPLATE;
      } else if (type === MonitorFrame.ERROR) {
        const [, code = 'ERR_MONITOR', message = ''] =
          /^(\S+) (.*)$/s.exec(payload.toString('utf8')) ?? [];
        error = new ClearVMError(code, message);
      }
    };
    const channel = addon.openChannel(fd, (chunk) => {
      if (chunk) {
        decoder.push(chunk).forEach(take);
        return;
      }
      channel.close();
      if (error) reject(error);
      else resolve({ forked });
    });
  });
}

function goneError(): ClearVMError {
  return new ClearVMError('ERR_MONITOR_GONE', "the container's monitor is gone");
}

/** What a monitor says without being asked. */
export interface MonitorEvents {
  /** Bytes of stdout (or of the terminal), or of stderr. Returning false: no more until `resume`. */
  onOutput?: (stream: 'stdout' | 'stderr', bytes: Buffer) => boolean;
  onExited?: (status: ExitStatus) => void;
  /** The monitor is gone. Called once, last. */
  onClose?: () => void;
}

/** A connection to a container's monitor. */
export class MonitorConnection {
  readonly #socket: Socket;
  readonly #decoder = new FrameDecoder();
  readonly #pending = new Map<number, (error: Error | undefined) => void>();
  #events: MonitorEvents;
  #last = 0;
  #closed = false;

  /** `socket` is connected. */
  constructor(socket: Socket, events: MonitorEvents = {}) {
    this.#socket = socket;
    this.#events = events;
    socket.on('data', (chunk: Buffer) => {
      for (const frame of this.#decoder.push(chunk)) this.#handle(frame, this.#events);
    });
    // Its end says the same: 'close' follows.
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#closed = true;
      for (const settle of this.#pending.values()) settle(goneError());
      this.#pending.clear();
      this.#events.onClose?.();
    });
  }

  /** Who hears of what comes from now on. */
  setEvents(events: MonitorEvents): void {
    this.#events = events;
  }

  /** Connects to the monitor of a container; undefined where there is none. */
  static connect(runDirectory: string): MonitorConnection | undefined {
    try {
      const fd = loadAddon().connectUnix(`${runDirectory}/monitor.sock`);
      return new MonitorConnection(new Socket({ fd }));
    } catch {
      return undefined;
    }
  }

  /** Sends what is not answered. False: wait for `drained` before more. */
  send(type: number, payload: Uint8Array = Buffer.alloc(0)): boolean {
    return !this.#closed && this.#socket.write(encodeFrame(type, 0, payload));
  }

  /** Bytes for the command's stdin, in frames of the size that the monitor takes. False: wait for `drained`. */
  sendStdin(bytes: Buffer): boolean {
    let more = true;
    for (let at = 0; at < bytes.length; at += MONITOR_FRAME_MAX) {
      more = this.send(MonitorFrame.STDIN, bytes.subarray(at, at + MONITOR_FRAME_MAX));
    }
    return more;
  }

  onceDrained(act: () => void): void {
    this.#socket.once('drain', act);
  }

  /** Has `onOutput` called again. */
  resume(): void {
    this.#socket.resume();
  }

  /** Errors: ERR_MONITOR_REQUEST (refused), ERR_MONITOR_GONE. */
  request(type: number, ...values: number[]): Promise<void> {
    return this.requestBytes(type, numbers(...values));
  }

  requestBytes(type: number, payload: Uint8Array): Promise<void> {
    if (this.#closed) return Promise.reject(goneError());
    const number = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#pending.set(number, (error) => (error ? reject(error) : resolve()));
      this.#socket.write(encodeFrame(type, number, payload));
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #handle({ type, request, payload }: Frame, events: MonitorEvents): void {
    switch (type) {
      case MonitorFrame.OUT:
      case MonitorFrame.ERR: {
        const stream = type === MonitorFrame.OUT ? 'stdout' : 'stderr';
        if (events.onOutput?.(stream, payload) === false) this.#socket.pause();
        break;
      }
      case MonitorFrame.EXITED: {
        const signal = payload.readUInt32LE(4);
        events.onExited?.({
          exitCode: payload.readUInt32LE(0),
          signal: signal === 0 ? null : signalName(signal),
        });
        break;
      }
      case MonitorFrame.REPLY: {
        const settle = this.#pending.get(request);
        this.#pending.delete(request);
        const errno = payload.readUInt32LE(0);
        const message = payload.toString('utf8', 4) || `errno ${errno}`;
        settle?.(errno === 0 ? undefined : new ClearVMError('ERR_MONITOR_REQUEST', message));
        break;
      }
      default:
        break;
    }
  }
}
