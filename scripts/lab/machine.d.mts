// The types of machine.mjs, for tests and benchmarks written in TypeScript. The comments are there.

import type { Readable, Writable } from 'node:stream';

export interface LabOptions {
  memory?: number;
  cpus?: number;
  icount?: boolean;
  shares?: string[];
  files?: string[];
  trees?: string[];
  onConsole?: (text: string) => void;
  commandLimitMs?: number;
}

export interface CommandOptions {
  cwd?: string;
  env?: Record<string, string>;
  stdin?: Readable | string | Buffer;
  stdout?: Writable;
  stderr?: Writable;
}

export interface CommandResult {
  status: number;
  stdout: Buffer;
  stderr: Buffer;
}

export class Lab implements AsyncDisposable {
  static start(options?: LabOptions): Promise<Lab>;
  readonly pid: number;
  spawn(
    argv: string[],
    options?: CommandOptions,
  ): { result: Promise<CommandResult>; kill: (signal: number) => void };
  run(argv: string[], options?: CommandOptions): Promise<CommandResult>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
