/** Further processes in a container that runs. */
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';

import { ClearVMError } from '../errors.js';
import type { RemoteProcess, VmmClient } from '../vm/client.js';
import { loadAddon } from '../vm/native.js';
import { USER_ANNOTATION, encodeExec, type OciSpec } from '../vm/spec.js';
import { settleStreams, StdioFds, type Stdio } from '../vm/stdio.js';
import type { ExitStatus } from '../vm/vmm.js';
import type { ContainerStreams } from './container.js';
import { noteContainer } from './events.js';
import { randomBytes } from './host.js';
import { readRecord } from './record.js';
import { signalNumber } from './signals.js';
import { applyChanges, parseVariable, readEnvironmentFile } from './environment.js';
import { aboutContainer, connectRunning, readRuntimeSpec, type Running } from './running.js';

/** Of a terminal, in characters. */
export interface TerminalSize {
  rows: number;
  columns: number;
}

/** What a further process in a container is given. */
export interface ExecOptions {
  /** Variables over the container's: `{NAME: 'value'}`, or `NAME=value`, or `NAME` for this process's value. */
  env?: readonly string[] | Readonly<Record<string, string>>;
  /** Files of `NAME=value` lines; `env` goes over them. */
  envFile?: string | string[];
  /** The working directory: absolute, and there; the container's unless given. */
  workdir?: string;
  /** `name`, `uid`, `name:group`, `uid:gid` or a mixture; the container's unless given. */
  user?: string;
  /** The process gets a terminal: its output is all `stdout`. */
  tty?: boolean;
  /** The terminal's size at first. */
  size?: TerminalSize;
  /** `ignore` unless given. */
  stdin?: Stdio;
  /** `pipe` unless given; then it must be read, or the process will wait for its reader. */
  stdout?: Stdio;
  stderr?: Stdio;
  /** Kills the process; `exec` or `wait` reject with the signal's reason. */
  signal?: AbortSignal;
}

/** A process beside the container's first one. */
export class ExecProcess implements ContainerStreams, AsyncDisposable {
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  readonly #client: VmmClient;
  readonly #process: RemoteProcess;
  readonly #ended: Promise<ExitStatus>;

  /** @internal */
  constructor(
    streams: ContainerStreams,
    client: VmmClient,
    process: RemoteProcess,
    ended: Promise<ExitStatus>,
  ) {
    this.stdin = streams.stdin;
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    this.#client = client;
    this.#process = process;
    this.#ended = ended;
    const settle = () => settleStreams(streams);
    ended.then(settle, settle);
  }

  /** Its exit status, once all of its output has gone out. Errors: ERR_VMM_GONE: the container has ended, and it with it. */
  wait(): Promise<ExitStatus> {
    return this.#ended;
  }

  /** Sends it a signal, SIGTERM unless given. Errors: ERR_SIGNAL, ERR_VMM_REQUEST (it has ended), ERR_VMM_GONE. */
  async kill(signal: string | number = 'SIGTERM'): Promise<void> {
    await this.#process.signal(signalNumber(signal));
  }

  /** Gives its terminal another size. Errors: as of `kill`. */
  async resize({ rows, columns }: TerminalSize): Promise<void> {
    await this.#process.resize(rows, columns);
  }

  /** Lets it run on by itself: what it writes is lost, and `wait` never ends. Errors: as of `kill`. */
  async detach(): Promise<void> {
    await this.#process.detach();
    this.#client.close();
  }

  /** `await using`: the process does not outlive its scope. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill('SIGKILL').catch(() => {});
    for (const stream of [this.stdin, this.stdout, this.stderr]) stream?.destroy();
    await this.#ended.catch(() => {});
  }
}

/**
 * Starts a command in a container, and returns when it runs.
 * Errors: ERR_EXEC_OPTIONS, ERR_ENV, ERR_ENV_FILE, ERR_SPEC_TOO_LARGE; ERR_CONTAINER_NOT_RUNNING, ERR_CONTAINER_PAUSED,
 * ERR_VMM_BUSY; ERR_PROCESS_START with the `exitCode` 126 or 127 for a command that cannot be executed or found.
 */
export async function startExec(
  container: Running,
  cmd: readonly string[],
  options: ExecOptions = {},
): Promise<ExecProcess> {
  checkOptions(cmd, options);
  options.signal?.throwIfAborted();
  const spec = await execSpec(readRuntimeSpec(container), cmd, options);
  const payload = encodeExec(spec, (options.stdin ?? 'ignore') !== 'ignore');
  const client = connectRunning(container);
  const note = noter(container);
  note(`exec_create: ${cmd.join(' ')}`);
  const { process, streams } = send(client, payload, options);
  const ended = watch(client, process, streams, options.signal);
  ended.then(
    ({ exitCode }) => note('exec_die', { exitCode: String(exitCode) }),
    () => {}, // whoever waits for it is told
  );
  // Whoever calls wait() hears of it.
  ended.catch(() => {});
  try {
    await process.started;
    note(`exec_start: ${cmd.join(' ')}`);
  } catch (error) {
    client.close();
    for (const stream of Object.values(streams)) stream?.destroy();
    options.signal?.throwIfAborted();
    throw aboutContainer(error, container);
  }
  return new ExecProcess(streams, client, process, ended);
}

/** What notes events of a process, as far as its client lives: nobody else sees it end. */
function noter(container: Running): (action: string, more?: Record<string, string>) => void {
  const record = readRecord(container.dataDirectory);
  const root = path.resolve(container.dataDirectory, '../..');
  const execID = randomBytes(32).toString('hex');
  return (action, more = {}) => {
    if (record) noteContainer(root, action, record, { execID, ...more });
  };
}

function checkOptions(cmd: readonly string[], { workdir, user, size }: ExecOptions): void {
  const fail = (field: string, text: string): never => {
    throw new ClearVMError('ERR_EXEC_OPTIONS', `${field} ${text}`, { field });
  };
  if (cmd.length === 0 || cmd.some((word) => typeof word !== 'string' || word.includes('\0'))) {
    fail('cmd', 'must be a command and its arguments, without NUL characters');
  }
  if (workdir !== undefined && !/^\/[^\0]*$/.test(workdir)) {
    fail('workdir', 'must be an absolute path');
  }
  if (user !== undefined && !/^[^:\0]*(:[^:\0]+)?$/.test(user)) {
    fail('user', 'must be NAME or UID, with :GROUP or :GID behind it or not');
  }
  for (const side of size === undefined ? [] : [size.rows, size.columns]) {
    if (!Number.isInteger(side) || side < 0 || side > 0xffff) fail('size', 'must be 0 to 65535');
  }
}

async function execSpec(
  { process: first, annotations }: OciSpec,
  cmd: readonly string[],
  { env = [], envFile = [], workdir, user, tty, size }: ExecOptions,
): Promise<Pick<OciSpec, 'process' | 'annotations'>> {
  const changes = [];
  for (const file of [envFile].flat()) {
    changes.push(...(await readEnvironmentFile(file, process.env)));
  }
  const texts = Array.isArray(env)
    ? (env as readonly string[])
    : Object.entries(env).map(([name, value]) => `${name}=${value}`);
  for (const text of texts) changes.push(parseVariable(text, process.env));
  const base = [...(tty ? ['TERM=xterm'] : []), ...(first.env ?? [])];
  const { consoleSize: _, ...rest } = first;
  return {
    process: {
      ...rest,
      args: [...cmd],
      env: applyChanges(base, changes),
      cwd: workdir ?? first.cwd,
      terminal: tty === true,
      ...(size ? { consoleSize: { height: size.rows, width: size.columns } } : {}),
    },
    annotations: { ...annotations, ...(user === undefined ? {} : { [USER_ANNOTATION]: user }) },
  };
}

/** Hands the request and the streams over to the VMM. */
function send(
  client: VmmClient,
  payload: Buffer,
  { tty = false, stdin = 'ignore', stdout = 'pipe', stderr = 'pipe' }: ExecOptions,
): { process: RemoteProcess; streams: ContainerStreams } {
  const addon = loadAddon();
  const stdio = new StdioFds(addon, { stdin, stdout, stderr: tty ? 'ignore' : stderr });
  let none = -1;
  try {
    none = openSync('/dev/null', 'r+');
    const fds = stdio.vmm.slice(0, tty ? 2 : 3).map((fd) => (fd < 0 ? none : fd));
    const process = client.exec(payload, tty, fds);
    stdio.closeVmmEnds();
    return { process, streams: stdio.streams() };
  } catch (error) {
    stdio.closeAll();
    client.close();
    throw error;
  } finally {
    if (none >= 0) closeSync(none);
  }
}

/** The process's end, or an abort's reason. */
async function watch(
  client: VmmClient,
  process: RemoteProcess,
  { stdin }: ContainerStreams,
  signal: AbortSignal | undefined,
): Promise<ExitStatus> {
  // A command that ends without reading its input is no error of this process; pipelines still hear of it.
  stdin?.on('error', () => {});
  const abort = (): void => void process.signal(signalNumber('SIGKILL')).catch(() => {});
  signal?.addEventListener('abort', abort, { once: true });
  const ended = process.started.then(() => {
    if (signal?.aborted) abort();
    return process.exited;
  });
  ended.catch(() => {});
  try {
    const status = await ended;
    signal?.throwIfAborted();
    return status;
  } finally {
    signal?.removeEventListener('abort', abort);
    client.close();
  }
}
