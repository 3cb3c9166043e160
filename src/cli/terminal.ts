/** This process's terminal, lent to a container's. */
import type { Writable } from 'node:stream';

import type { TerminalSize } from '../engine/exec.js';
import { ClearVMError } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { DetachFilter } from './detach-keys.js';

/** What ends this process; first it gives the terminal back. */
const ENDING = ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP'] as const;

/** Errors: ERR_NOT_A_TTY, as docker has it. */
export function requireTerminal(interactive: boolean, tty: boolean): void {
  if (interactive && tty && !process.stdin.isTTY) {
    throw new ClearVMError('ERR_NOT_A_TTY', 'the input device is not a TTY', { exitCode: 1 });
  }
}

/** The size of the terminal that output goes to; undefined where there is none. */
export function terminalSize(): TerminalSize | undefined {
  if (!process.stdout.isTTY) return undefined;
  const [columns, rows] = process.stdout.getWindowSize();
  return { rows, columns };
}

/** What a container's terminal is driven with. */
export interface Terminal {
  stdin: Writable | null;
  resize(size: TerminalSize): Promise<void>;
  detach?(): Promise<void>;
}

/** The terminal in raw mode: from its making to `close`, every key is the container's. */
export class RawTerminal {
  readonly #saved: Buffer | undefined;
  readonly #detached: Promise<'detached'>;
  #filter: DetachFilter | undefined;
  #target: Terminal | undefined;
  #resolveDetached!: (value: 'detached') => void;

  /** `input`: whether this process's terminal is read at all. `detachKeys`: none unless given. */
  constructor(input: boolean, detachKeys?: Buffer) {
    if (detachKeys) this.#filter = new DetachFilter(detachKeys);
    this.#detached = new Promise((resolve) => {
      this.#resolveDetached = resolve;
    });
    if (input) {
      this.#saved = loadAddon().rawTerminal(0);
      for (const signal of ENDING) process.on(signal, this.#end);
    }
  }

  /** Resolves when the detach keys have been pressed, and the container has been let go. */
  get detached(): Promise<'detached'> {
    return this.#detached;
  }

  connect(target: Terminal): void {
    this.#target = target;
    process.on('SIGWINCH', this.#resize);
    // It may have changed meanwhile.
    this.#resize();
    if (!target.stdin || !this.#saved) return;
    process.stdin.on('data', this.#type);
    process.stdin.once('end', () => target.stdin?.end());
  }

  /** Gives the terminal back as it was; idempotent. */
  close(): void {
    process.off('SIGWINCH', this.#resize);
    for (const signal of ENDING) process.off(signal, this.#end);
    if (!this.#saved) return;
    process.stdin.off('data', this.#type);
    process.stdin.pause();
    loadAddon().restoreTerminal(0, this.#saved);
  }

  readonly #type = (typed: Buffer): void => {
    const bytes = this.#filter ? this.#filter.push(typed) : typed;
    if (bytes !== undefined) {
      this.#target?.stdin?.write(bytes);
      return;
    }
    process.stdin.off('data', this.#type);
    const detach = this.#target?.detach?.() ?? Promise.resolve();
    // It fails only when the container ends just now.
    void detach.catch(() => {}).then(() => this.#resolveDetached('detached'));
  };

  readonly #resize = (): void => {
    const size = terminalSize();
    if (size) this.#target?.resize(size).catch(() => {});
  };

  readonly #end = (signal: NodeJS.Signals): void => {
    this.close();
    // Without a handler now, it does what it does to others.
    process.kill(process.pid, signal);
  };
}
