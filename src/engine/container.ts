/** A container that runs: its streams, its end, its signals. */
import type { Readable, Writable } from 'node:stream';

import { ControlFrame } from '../vm/protocol.js';
import { encodeSize } from '../vm/spec.js';
import { settleStreams } from '../vm/stdio.js';
import type { Timing, TimelineRecorder } from '../vm/timings.js';
import type { ExitStatus, StartedFrom, Vmm } from '../vm/vmm.js';
import type { ExecOptions, ExecProcess, TerminalSize } from './exec.js';
import type { Running } from './running.js';
import { signalNumber } from './signals.js';
import type { ContainerDirectories } from './state.js';

/** The standard streams of a process in a container. */
export interface ContainerStreams {
  /** null unless `stdin: 'pipe'`. */
  stdin: Writable | null;
  /** null unless `stdout: 'pipe'`. */
  stdout: Readable | null;
  stderr: Readable | null;
}

/** A container that this process has started, and that ends with it. */
export class RunningContainer implements ContainerStreams, AsyncDisposable {
  /** 64 hex digits. */
  readonly id: string;
  readonly name: string;
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  readonly #running: Running;
  readonly #vmm: Vmm;
  readonly #timeline: TimelineRecorder;
  readonly #ended: Promise<ExitStatus>;

  /** @internal `ended` settles when the container is over and nothing of it is left. */
  constructor(
    { id, name, runDirectory, dataDirectory }: ContainerDirectories,
    streams: ContainerStreams,
    vmm: Vmm,
    timeline: TimelineRecorder,
    ended: Promise<ExitStatus>,
  ) {
    this.id = id;
    this.name = name;
    this.stdin = streams.stdin;
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    this.#running = { id, name, directory: runDirectory, dataDirectory };
    this.#vmm = vmm;
    this.#timeline = timeline;
    this.#ended = ended;
    const settle = () => settleStreams(streams);
    ended.then(settle, settle);
  }

  /** The VMM's process id, as this host counts. */
  get vmmPid(): number {
    return this.#vmm.pid;
  }

  /** Whether the VM was forked from a template, or why it was booted. */
  get startedFrom(): StartedFrom {
    return this.#vmm.startedFrom;
  }

  /** The points that the run has reached so far, in milliseconds since `Engine.run` was called. */
  get timings(): Timing[] {
    return this.#timeline.list();
  }

  /**
   * The command's exit status, once it has ended and nothing of the container is left on the host.
   * Errors: ERR_VMM_KILLED, ERR_GUEST_PANIC and the other ways in which a VM can end that are no command's exit.
   */
  wait(): Promise<ExitStatus> {
    return this.#ended;
  }

  /**
   * Sends a signal to the command, SIGTERM unless given; it may handle or ignore it as anywhere.
   * Errors: ERR_SIGNAL (no such signal), ERR_VMM_GONE (the container has ended).
   */
  async kill(signal: string | number = 'SIGTERM'): Promise<void> {
    await this.#vmm.signal(signalNumber(signal));
  }

  /** Gives the command's terminal another size. Errors: ERR_VMM_GONE. */
  async resize({ rows, columns }: TerminalSize): Promise<void> {
    await this.#vmm.request(ControlFrame.RESIZE, encodeSize(rows, columns));
  }

  /** Starts a further process in the container. Errors: those of `Engine.exec`. */
  async exec(cmd: readonly string[], options: ExecOptions = {}): Promise<ExecProcess> {
    const { startExec } = await import('./exec.js');
    return startExec(this.#running, cmd, options);
  }

  /** The VM's counters by name: exits to the VMM, and what KVM counted until init with `statistics`. */
  metrics(): Promise<Record<string, number>> {
    return this.#vmm.metrics();
  }

  /** Ends the VM at once, whatever the command does; `wait` then says 137. Returns when nothing of it is left. */
  async stop(): Promise<void> {
    this.#vmm.destroy();
    await this.#ended.catch(() => {});
  }

  /** `await using container = await engine.run(...)`: the VM does not outlive its scope. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
