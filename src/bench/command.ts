/** Workloads that a program of the host starts: runc, podman, QEMU and so on. */
import { spawn, type ChildProcess } from 'node:child_process';

import { execa } from 'execa';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import type { Timing } from '../vm/timings.js';
import { withDescendants } from './processes.js';
import type { Instance } from './types.js';

/** The workload's first line (rootfs/bench.c). */
export const READY = 'clearvm-bench ready';
/** Of what a program says on stderr, this much is kept for a message. */
const KEPT_CHARACTERS = 500;

export interface CommandLine {
  file: string;
  args: string[];
  env?: Readonly<Record<string, string>>;
  /** Removes what killing the program would leave. */
  remove?: { file: string; args: string[] };
  /** Processes besides the program and its descendants. */
  morePids?: () => Promise<number[]>;
}

/** A command line that has been started. The clock begins just before the fork. */
export class CommandInstance implements Instance {
  readonly ready: Promise<number>;
  readonly ended: Promise<string>;
  goneMs = Number.NaN;
  readonly #line: CommandLine;
  readonly #child: ChildProcess;
  #readyMs: number | undefined;
  #stopped = false;

  constructor(line: CommandLine) {
    this.#line = line;
    const start = performance.now();
    const child = spawn(line.file, line.args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(line.env ? { env: { ...process.env, ...line.env } } : {}),
    });
    this.#child = child;
    let output = '';
    let errors = '';
    let onReady: (ms: number) => void;
    let onFailure: (error: Error) => void;
    this.ready = new Promise((resolve, reject) => {
      onReady = resolve;
      onFailure = reject;
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      errors = (errors + chunk.toString('latin1')).slice(-KEPT_CHARACTERS);
    });
    child.stdout?.on('data', (chunk: Buffer) => {
      output += chunk.toString('latin1');
      if (this.#readyMs !== undefined || !output.includes(READY)) return;
      this.#readyMs = performance.now() - start;
      onReady(this.#readyMs);
    });
    this.ended = new Promise((resolve, reject) => {
      const fail = (error: Error): void => {
        onFailure(error);
        reject(error);
      };
      child.on('error', (cause) =>
        fail(workloadError(`${line.file} cannot be started: ${messageOf(cause)}`)),
      );
      child.on('close', (status, signal) => {
        this.goneMs = performance.now() - start;
        const failed = status !== 0 && !this.#stopped;
        const said = (errors || output).trim().slice(-KEPT_CHARACTERS);
        const how = signal ? `by ${signal}` : `with status ${status}`;
        if (this.#readyMs === undefined || failed || output.includes('clearvm-bench error')) {
          fail(workloadError(`${line.file} ended ${how}${said ? `: ${said}` : ''}`));
        } else {
          resolve(output);
        }
      });
    });
    // Whoever wants to know awaits them; what is stopped need not be.
    this.ready.catch(() => {});
    this.ended.catch(() => {});
  }

  async pids(): Promise<number[]> {
    const own = this.#child.pid === undefined ? [] : [this.#child.pid];
    return withDescendants([...own, ...((await this.#line.morePids?.()) ?? [])]);
  }

  timings(): Timing[] {
    return this.#readyMs === undefined
      ? []
      : [
          { point: 'request', at: 0 },
          { point: 'first.output', at: this.#readyMs },
          ...(Number.isNaN(this.goneMs) ? [] : [{ point: 'cleaned', at: this.goneMs } as const]),
        ];
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    const { remove } = this.#line;
    if (remove) await execa(remove.file, remove.args, { reject: false, timeout: 60_000 });
    this.#child.kill('SIGKILL');
    await this.ended.catch(() => {});
  }
}

export function workloadError(message: string): ClearVMError {
  return new ClearVMError('ERR_BENCH_WORKLOAD', message);
}

/** What a program says of its version: the first line. Errors: ERR_BENCH_RUNTIME, in words for a list. */
export async function versionOf(file: string, args = ['--version']): Promise<string> {
  try {
    const { stdout } = await execa(file, args, { timeout: 60_000 });
    return stdout.trim().split('\n')[0] ?? '';
  } catch (cause) {
    throw unavailable(
      errnoOf(cause) === 'ENOENT'
        ? `${file} is not installed`
        : `${file} ${args.join(' ')}: ${messageOf(cause).trim().split('\n').at(-1) ?? ''}`,
    );
  }
}

export function unavailable(why: string): ClearVMError {
  return new ClearVMError('ERR_BENCH_RUNTIME', why);
}
