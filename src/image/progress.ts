import type { ImageProgress, ProgressListener } from './types.js';

const INTERVAL_MS = 50;

/** Reports one step to a listener, not oftener than it can be drawn. */
export class ProgressStep {
  #last = 0;
  #done = 0;

  constructor(
    private readonly listener: ProgressListener | undefined,
    private readonly step: ImageProgress['step'],
    private readonly subject: string,
    private readonly total?: number,
  ) {
    this.#send(false);
  }

  /** `done`: bytes since the beginning. */
  update(done: number): void {
    this.#done = done;
    const now = performance.now();
    if (now - this.#last < INTERVAL_MS) return;
    this.#last = now;
    this.#send(false);
  }

  finish(): void {
    this.#send(true);
  }

  #send(finished: boolean): void {
    this.listener?.({
      step: this.step,
      subject: this.subject,
      done: this.#done,
      ...(this.total === undefined ? {} : { total: this.total }),
      finished,
    });
  }
}
