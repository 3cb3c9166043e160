/** A container that runs: its streams, its end, its signals. */
import type { Readable, Writable } from 'node:stream';

import { ClearVMError } from '../errors.js';
import { SIGNALS } from '../vm/constants.js';
import type { Timing, TimelineRecorder } from '../vm/timings.js';
import type { ExitStatus, Vmm } from '../vm/vmm.js';

export interface ContainerStreams {
  /** null unless `stdin: 'pipe'`. */
  stdin: Writable | null;
  /** null unless `stdout: 'pipe'`. */
  stdout: Readable | null;
  stderr: Readable | null;
}

/** A signal's number of its name, with or without SIG, or of a number. Errors: ERR_SIGNAL. */
export function signalNumber(signal: string | number): number {
  const text = String(signal).toUpperCase();
  const number = /^\d+$/.test(text)
    ? Number(text)
    : SIGNALS[text.startsWith('SIG') ? text : `SIG${text}`];
  if (number === undefined || number < 1 || number > 64) {
    throw new ClearVMError('ERR_SIGNAL', `${JSON.stringify(signal)} is no signal of Linux`, {
      field: 'signal',
    });
  }
  return number;
}

export class RunningContainer implements ContainerStreams, AsyncDisposable {
  /** 64 hex digits. */
  readonly id: string;
  readonly name: string;
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  readonly #vmm: Vmm;
  readonly #timeline: TimelineRecorder;
  readonly #ended: Promise<ExitStatus>;

  /** @internal `ended` settles when the container is over and nothing of it is left. */
  constructor(
    id: string,
    name: string,
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
    this.#vmm = vmm;
    this.#timeline = timeline;
    this.#ended = ended;
  }

  /** The VMM's process id, as this host counts. */
  get vmmPid(): number {
    return this.#vmm.pid;
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
