/** One clearvm-vmm process as seen from TypeScript: its start, its control socket, its end. */
import { ClearVMError, messageOf } from '../errors.js';
import type { Addon, Channel, SpawnedVmm } from './addon-types.js';
import { vmmArguments, type TemplateUse, type VmConfig } from './config.js';
import { signalName } from './constants.js';
import { endError, failureError, goneError } from './failure.js';
import { LogTail } from './log-tail.js';
import { ControlFrame, FrameDecoder, Origin, encodeFrame, type Frame } from './protocol.js';
import { Requests } from './requests.js';
import type { LaunchedVmm, Spare } from './spare.js';
import type { TimelineRecorder } from './timings.js';

/** Open descriptors. */
export interface GuestFds {
  kernel: number;
  initrd: number;
}

export interface VmmOptions {
  addon: Addon;
  /** Path of the executable. */
  file: string;
  config: VmConfig;
  /** Path of an empty network namespace that VMMs share; without it, it makes one. */
  netns?: string;
  /** What it is forked from, if that is there. */
  template?: TemplateUse;
  /** A VMM that was started in advance, from that template, with that memory and these processors. */
  spare?: Spare;
  /** Opens the kernel and the initramfs, where the VMM is to be spawned; they stay the caller's. */
  guest: { open(): GuestFds };
  /** The START frame's payload (`encodeSpec`). */
  spec: Buffer;
  /** stdin, stdout and stderr of the container; -1 is /dev/null. */
  stdio: number[];
  /** They are a terminal's: stderr is not used. */
  terminal?: boolean;
  /** Where the guest kernel's log is copied to; without it the last of it is kept for error messages. */
  consoleFd?: number;
  /** A listening socket that others can reach the VM by; it stays the caller's. */
  listenFd: number;
  timeline: TimelineRecorder;
}

/**
 * What a VM has started from: `template` (forked), `spare` (forked before it was asked for), or the kernel: because no template was wanted (`kernel`), because there
 * was none (`missing`), or because it was damaged or not made for this VM (`refused`).
 */
export type StartedFrom = 'template' | 'spare' | 'kernel' | 'missing' | 'refused';

/** How the container's process ended. */
export interface ExitStatus {
  /** 0 to 255; 128 + n when signal n ended the process. */
  exitCode: number;
  /** The signal's name, or null when the process exited by itself. */
  signal: string | null;
}

/** The end of a process that an EXIT event tells of. */
export function exitStatus(exitCode: number, signal: number): ExitStatus {
  return signal === 0
    ? { exitCode: exitCode & 0xff, signal: null }
    : { exitCode: 128 + signal, signal: signalName(signal) };
}

/** The name of a VMM's listening socket in the container's runtime directory. */
export const VMM_SOCKET = 'vmm.sock';

/** All of the VMM's options; descriptors are numbered as in `enum clearvm_vmm_fd` (native/protocol/monitor.h). */
export function vmmCommandLine(
  config: VmConfig,
  given: { stdin: boolean; terminal?: boolean; netns?: string; template?: TemplateUse },
): string[] {
  return [
    ...['--control-fd', '3', '--kernel-fd', '4', '--initrd-fd', '5', '--console-fd', '6'],
    ...['--stdout-fd', '8', '--stderr-fd', '9', '--listen-fd', '10', '--jail', 'spawned'],
    ...(given.terminal ? ['--terminal'] : []),
    ...(given.stdin ? ['--stdin-fd', '7'] : []),
    ...(given.netns === undefined ? [] : ['--netns', given.netns]),
    ...vmmArguments(config, given.template),
  ];
}

function commandLineOf(options: VmmOptions): string[] {
  return vmmCommandLine(options.config, { ...options, stdin: options.stdio[0] !== -1 });
}

/** Of `enum clearvm_vmm_fd`; those of the standard streams and the listening socket follow. */
const CONSOLE_FD = 6;

/** How long the control socket may stay silent after the VMM's end before its last frames count as lost. */
const DRAIN_MS = 1000;

export class Vmm {
  /** Resolves when the container's process runs; rejects with a ClearVMError when it cannot. */
  readonly started: Promise<void>;
  /** The process's end; rejects with a ClearVMError when the VM ended otherwise. */
  readonly exited: Promise<ExitStatus>;
  /** Resolves when the VMM's process is gone and all it said has been heard. Never rejects. */
  readonly gone: Promise<void>;

  /** Known when `started` has resolved. */
  startedFrom: StartedFrom = 'kernel';
  /** Why a template was not used. */
  templateRefusal = '';

  readonly #process: SpawnedVmm;
  readonly #timeline: TimelineRecorder;
  readonly #control: Channel;
  readonly #decoder = new FrameDecoder();
  readonly #requests = new Requests();
  #log: LogTail | undefined;
  #controlClosed = false;
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

    const console = options.consoleFd === undefined ? addon.pipe() : undefined;
    const consoleFd = console ? console[1] : (options.consoleFd as number);
    let control: number;
    try {
      const launched = this.#useSpare(options, consoleFd) ?? this.#spawn(options, consoleFd);
      this.#process = launched.process;
      control = launched.control;
    } catch (cause) {
      for (const fd of console ?? []) addon.closeFd(fd);
      throw new ClearVMError(
        'ERR_VMM_SPAWN',
        `cannot start the VMM ${options.file}: ${messageOf(cause)}; build it with \`npm run build\`, and run \`clearvm doctor\``,
        { cause },
      );
    }
    if (console) {
      addon.closeFd(console[1]);
      this.#log = new LogTail(addon, console[0]);
    }
    this.#control = addon.openChannel(control, (chunk) => this.#receive(chunk));
    this.#control.write(encodeFrame(ControlFrame.START, this.#requests.next(), options.spec));
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
    if (this.#controlClosed) return Promise.reject(goneError());
    const number = this.#requests.next();
    const result = this.#requests.result(number);
    this.#control.write(encodeFrame(type, number, payload));
    return result;
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

  #useSpare(options: VmmOptions, console: number): LaunchedVmm | undefined {
    const { spare, stdio, listenFd } = options;
    const launched = spare?.become(
      commandLineOf(options),
      new Map([console, ...stdio, listenFd].map((fd, index) => [CONSOLE_FD + index, fd])),
      (code, signal) => this.#onEnd(code, signal),
    );
    if (launched) this.startedFrom = 'spare';
    return launched;
  }

  #spawn(options: VmmOptions, console: number): LaunchedVmm {
    const { addon, file, stdio, listenFd } = options;
    const { kernel, initrd } = options.guest.open();
    const [control, theirs] = addon.socketPair();
    const log = options.config.debug ? 2 : -1;
    const fds = [-1, -1, log, theirs, kernel, initrd, console, ...stdio, listenFd];
    const args = commandLineOf(options);
    try {
      const process = addon.spawnVmm({ file, args, fds, namespaces: true }, (code, signal) =>
        this.#onEnd(code, signal),
      );
      return { process, control };
    } catch (error) {
      addon.closeFd(control);
      throw error;
    } finally {
      addon.closeFd(theirs);
    }
  }

  #onEnd(code: number | null, signal: number | null): void {
    this.#timeline.mark('vmm.gone');
    this.#end = { code, signal };
    if (this.#controlClosed) {
      this.#finish();
      return;
    }
    // Its end of the socket is closed, so that the end follows the last frame; unless some other process
    // that should not exist holds a copy.
    setTimeout(() => this.#closeControl(), DRAIN_MS).unref();
  }

  #receive(chunk: Buffer | null): void {
    if (chunk === null) {
      this.#closeControl();
      return;
    }
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

  #closeControl(): void {
    if (this.#controlClosed) return;
    this.#controlClosed = true;
    this.#control.close();
    this.#finish();
  }

  #handle({ type, request, payload }: Frame): void {
    switch (type) {
      case ControlFrame.TIMELINE:
        this.#timeline.addStamps(payload);
        break;
      case ControlFrame.ORIGIN:
        this.#noteOrigin(payload);
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
        this.#requests.settle(request, payload);
        break;
      default:
        // A newer VMM may know events that this engine does not.
        break;
    }
  }

  #noteOrigin(payload: Buffer): void {
    if (payload.length < 4) return;
    const origin = payload.readUInt32LE(0);
    if (origin === Origin.TEMPLATE && this.startedFrom === 'spare') return;
    this.startedFrom =
      origin === Origin.TEMPLATE ? 'template' : origin === Origin.MISSING ? 'missing' : 'refused';
    this.templateRefusal = payload.toString('utf8', 4);
  }

  #settleExit(exitCode: number, signal: number): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#timeline.mark('exited');
    this.#resolveStarted();
    this.#resolveExited(exitStatus(exitCode, signal));
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
    this.#requests.fail(goneError());
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
