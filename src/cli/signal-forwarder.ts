/** This process's signals, passed on to the command that it runs. */
import type { AbortSource } from '../engine/options.js';

/** Signals that reach the command; those that Node or the terminal need stay here. */
const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;

/** What signals are passed on to. */
interface Signalled {
  kill(signal: NodeJS.Signals): Promise<void>;
}

type Listener = Parameters<AbortSource['addEventListener']>[1];

/** What an AbortController has in its signal, as far as the engine asks for it. */
class Abortion implements AbortSource {
  aborted = false;
  reason: unknown;
  readonly #listeners = new Set<Listener>();

  throwIfAborted(): void {
    if (this.aborted) throw this.reason;
  }

  addEventListener(_type: string, listener: Listener): void {
    this.#listeners.add(listener);
  }

  removeEventListener(_type: string, listener: Listener): void {
    this.#listeners.delete(listener);
  }

  /** Only the first time does anything, and nothing is told twice. */
  abort(reason: Error): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    for (const listener of this.#listeners) {
      if (typeof listener === 'function') listener.call(this as never, new Event('abort'));
      else listener.handleEvent(new Event('abort'));
    }
    this.#listeners.clear();
  }
}

/** Passes signals on to the command; before there is one, they end the run. */
export class SignalForwarder {
  readonly #abortion = new Abortion();
  #target: Signalled | undefined;
  /** What to exit with when a signal came before the command ran. */
  exitCode: number | undefined;

  constructor() {
    for (const signal of FORWARDED) process.on(signal, this.#receive);
  }

  /** Aborted by a signal that comes before there is a command. */
  get aborted(): AbortSource {
    return this.#abortion;
  }

  forwardTo(target: Signalled): void {
    this.#target = target;
  }

  close(): void {
    for (const signal of FORWARDED) process.off(signal, this.#receive);
  }

  readonly #receive = (name: NodeJS.Signals, number: number): void => {
    if (this.#target) {
      // It fails only when the container ends just now.
      this.#target.kill(name).catch(() => {});
      return;
    }
    this.exitCode ??= 128 + number;
    this.#abortion.abort(new Error(`${name} came before the command ran`));
  };
}
