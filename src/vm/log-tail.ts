import type { Addon, Channel } from './addon-types.js';

/** Bytes of the kernel log that are kept for error messages. */
const LOG_KEPT = 16 * 1024;

/** How long the end of the log may take to come when its writer has gone, ms. */
const DRAIN_MS = 1000;

/** The end of the kernel's log, read from a pipe: bounded, whatever the guest prints. */
export class LogTail {
  readonly #addon: Addon;
  readonly #fd: number;
  #channel: Channel | undefined;
  #tail: Buffer = Buffer.alloc(0);
  #ended = false;
  #onEnd: (() => void) | undefined;

  /** `fd` is the pipe's read end, which it owns from now on. */
  constructor(addon: Addon, fd: number) {
    this.#addon = addon;
    this.#fd = fd;
  }

  /** Begins to read. Until then the pipe holds what the kernel says, so that a start need not pay for it. */
  open(): void {
    if (this.#channel) return;
    this.#channel = this.#addon.openChannel(this.#fd, (chunk) => this.#receive(chunk));
    // A container that waits must be kept alive by its control socket, not by a log.
    this.#channel.unref();
  }

  /** Everything that was kept, when the writer has gone. */
  async readAll(): Promise<string> {
    this.open();
    if (!this.#ended) {
      this.#channel?.ref();
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, DRAIN_MS);
        this.#onEnd = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return this.#tail.toString('utf8');
  }

  close(): void {
    if (this.#channel) this.#channel.close();
    else this.#addon.closeFd(this.#fd);
  }

  #receive(chunk: Buffer | null): void {
    if (chunk === null) {
      this.#ended = true;
      this.#onEnd?.();
      return;
    }
    const tail = Buffer.concat([this.#tail, chunk]);
    this.#tail = tail.length > LOG_KEPT ? Buffer.from(tail.subarray(-LOG_KEPT)) : tail;
  }
}
