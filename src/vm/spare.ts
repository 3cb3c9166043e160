/** A VMM that is started before anybody needs it (native/vmm/run_spare.cc): its VM is forked, and its orders are still to come. */
import { encodeFrame, ControlFrame } from './protocol.js';
import type { Addon, SpawnedVmm } from './addon-types.js';
import { shareTag, type TemplateUse } from './config.js';
import type { GuestFds } from './vmm.js';

export interface SpareOptions {
  addon: Addon;
  /** Path of the executable. */
  file: string;
  template: TemplateUse;
  /** Bytes; at most the template's. */
  memory: number;
  /** The template's. */
  cpus: number;
  netns?: string;
  /** They stay the caller's. */
  guest: GuestFds;
}

/** A VMM's process, and the control socket whose other end it has. */
export interface LaunchedVmm {
  process: SpawnedVmm;
  control: number;
}

/** As of `clearvm_become` in native/protocol/control.h. */
const BECOME_FDS_MAX = 8;

type OnExit = (code: number | null, signal: number | null) => void;

export class Spare {
  readonly #addon: Addon;
  readonly #process: SpawnedVmm;
  readonly #control: number;
  #over = false;
  #onExit: OnExit;

  /** `onGone` is called when it ends before it was used. This process need not wait for it. Errors: those of `Addon.spawnVmm`. */
  constructor(options: SpareOptions, onGone: () => void) {
    const { addon, file, template, memory, cpus, netns, guest } = options;
    this.#addon = addon;
    this.#onExit = () => {
      this.close();
      onGone();
    };
    const args = [
      ...['--spare', '--control-fd', '3', '--kernel-fd', '4', '--initrd-fd', '5'],
      ...['--jail', 'spawned', '--cpus', String(cpus), '--memory', String(memory)],
      ...['--template', template.path, '--template-cache', template.cache],
      ...(netns === undefined ? [] : ['--netns', netns]),
    ];
    for (let i = 0; i < template.devices; i++) args.push('--unserved', shareTag(i));
    const [control, theirs] = addon.socketPair();
    // Those of its container take their numbers.
    const fds = [-1, -1, -1, theirs, guest.kernel, guest.initrd, -1, -1, -1, -1, -1];
    try {
      this.#process = addon.spawnVmm(
        { file, args, fds, namespaces: true, background: true },
        (code, signal) => this.#onExit(code, signal),
      );
    } catch (error) {
      addon.closeFd(control);
      throw error;
    } finally {
      addon.closeFd(theirs);
    }
    this.#control = control;
  }

  /**
   * Has it go on with this command line (`vmmCommandLine`), of the same template, memory and processors, and with these descriptors by their
   * numbers there; -1 is /dev/null. They stay the caller's. `onExit`: as of `Addon.spawnVmm`. Undefined where it has ended, or was used.
   */
  become(
    args: readonly string[],
    fds: ReadonlyMap<number, number>,
    onExit: OnExit,
  ): LaunchedVmm | undefined {
    if (this.#over) return undefined;
    const given = [...fds].filter(([, fd]) => fd >= 0);
    const header = Buffer.alloc(4 + 4 * BECOME_FDS_MAX);
    header.writeUInt32LE(given.length, 0);
    given.forEach(([number], index) => header.writeUInt32LE(number, 4 + 4 * index));
    const text = Buffer.from(args.map((arg) => `${arg}\0`).join(''));
    const frame = encodeFrame(ControlFrame.BECOME, 0, Buffer.concat([header, text]));
    let sent = 0;
    try {
      sent = this.#addon.sendFds(
        this.#control,
        frame,
        given.map(([, fd]) => fd),
      );
    } catch {
      // It has ended, and this process has not heard of it yet.
    }
    if (sent < frame.length) {
      this.close();
      return undefined;
    }
    this.#over = true;
    this.#onExit = onExit;
    this.#process.ref();
    return { process: this.#process, control: this.#control };
  }

  /** Ends it, unless it was used; idempotent. */
  close(): void {
    if (this.#over) return;
    this.#over = true;
    // That is all that it waits for.
    this.#addon.closeFd(this.#control);
  }
}
