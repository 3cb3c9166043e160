/** A run of the benchmark: what is started in it, is ended with it, whatever happens. */
import { setTimeout as sleep } from 'node:timers/promises';

import { messageOf } from '../errors.js';
import { workloadError } from './command.js';
import type { Failure } from './report/types.js';
import type { Instance, Kind, Place, Runtime, Workload } from './types.js';

/** A kernel frees a VM after its container has ended: the next measurement is not to pay for that. */
const QUIET_MS = 100;

export interface Settings {
  /** Start-ups of each runtime; other measurements of each figure; and those before that do not count. */
  runs: number;
  workRuns: number;
  warmup: number;
  memoryMiB: number;
  /** Containers at a time that `density` starts, at most. */
  count: number;
  /** No workload may take longer than this; ms. */
  timeoutMs: number;
  signal?: AbortSignal;
  onProgress?: (text: string) => void;
}

export class Session {
  readonly place: Place;
  readonly settings: Settings;
  readonly failures: Failure[] = [];
  readonly #live = new Set<Instance>();

  constructor(place: Place, settings: Settings) {
    this.place = place;
    this.settings = settings;
  }

  workload(...words: string[]): Workload {
    return { words, memoryMiB: this.settings.memoryMiB };
  }

  progress(text: string): void {
    this.settings.onProgress?.(text);
  }

  /** What fails for one runtime is written down, and the others go on. What was called off ends all. */
  async attempt<T>(kind: Kind, runtime: Runtime, action: () => Promise<T>): Promise<T | undefined> {
    this.settings.signal?.throwIfAborted();
    try {
      return await action();
    } catch (error) {
      this.settings.signal?.throwIfAborted();
      this.failures.push({ kind, runtime: runtime.id, message: messageOf(error) });
      return undefined;
    }
  }

  /** Starts a workload, and waits for its first line. */
  async start(runtime: Runtime, workload: Workload): Promise<{ instance: Instance; ms: number }> {
    const { signal, timeoutMs } = this.settings;
    signal?.throwIfAborted();
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(tooLong(runtime, workload, timeoutMs)), timeoutMs);
    const instance = await runtime
      .start(workload, signal ? AbortSignal.any([late.signal, signal]) : late.signal)
      .finally(() => clearTimeout(timer));
    this.#live.add(instance);
    try {
      return { instance, ms: await this.#within(instance.ready, runtime, workload) };
    } catch (error) {
      await this.stop(instance);
      throw error;
    }
  }

  async stop(instance: Instance): Promise<void> {
    await instance.stop();
    this.#live.delete(instance);
  }

  /** Runs a workload to its end. */
  async run(
    runtime: Runtime,
    workload: Workload,
  ): Promise<{ instance: Instance; ms: number; output: string }> {
    const { instance, ms } = await this.start(runtime, workload);
    try {
      const output = await this.#within(instance.ended, runtime, workload);
      this.#live.delete(instance);
      await sleep(QUIET_MS);
      return { instance, ms, output };
    } catch (error) {
      await this.stop(instance);
      throw error;
    }
  }

  /** Ends everything that still runs. */
  async close(): Promise<void> {
    await Promise.allSettled([...this.#live].map((instance) => this.stop(instance)));
  }

  async #within<T>(result: Promise<T>, runtime: Runtime, workload: Workload): Promise<T> {
    const { timeoutMs, signal } = this.settings;
    const over = new AbortController();
    const late = sleep(timeoutMs, undefined, {
      signal: signal ? AbortSignal.any([over.signal, signal]) : over.signal,
    }).then(() => {
      throw tooLong(runtime, workload, timeoutMs);
    });
    try {
      return await Promise.race([result, late]);
    } finally {
      over.abort();
      late.catch(() => {});
    }
  }
}

function tooLong({ id }: Runtime, { words }: Workload, timeoutMs: number): Error {
  return workloadError(`${id}: ${words.join(' ')} took longer than ${timeoutMs / 1000} s`);
}

/** The figures that a workload has printed, by name: "clearvm-bench NAME NANOSECONDS AMOUNT". */
export function figuresOf(output: string): Map<string, { ms: number; amount: number }> {
  const figures = new Map<string, { ms: number; amount: number }>();
  for (const [, name, nanoseconds, amount] of output.matchAll(
    /^clearvm-bench (\w+) (\d+) (\d+)\r?$/gm,
  )) {
    figures.set(name ?? '', { ms: Number(nanoseconds) / 1e6, amount: Number(amount) });
  }
  return figures;
}
