import { spawn } from 'node:child_process';
import { once } from 'node:events';

import { ImageError } from './errors.js';

/** flock's exit status where the lock is taken. */
const CONFLICT = 75;

/** A kernel lock that is held until `release`, or until this process ends, however it ends. */
export interface Lock {
  release(): Promise<void>;
}

/**
 * Locks a file (made when missing) or a directory for this process alone, and waits for it as long as it takes.
 *
 * Node has no flock(2). util-linux's flock takes the lock and becomes a `cat` that ends when our end of its standard
 * input closes, which the kernel does for us when we are killed. It runs in a session of its own, so that a Ctrl-C
 * at the terminal does not take the lock away while the work that it protects is still being undone.
 *
 * @throws ImageError ERR_IMAGE_TOOL_MISSING, ERR_IMAGE_STORE, ERR_IMAGE_ABORTED
 */
export async function lock(path: string, signal?: AbortSignal): Promise<Lock> {
  const held = await take(path, [], signal);
  if (!held) throw new ImageError('ERR_IMAGE_STORE', `cannot lock ${path}`);
  return held;
}

/** The same, without waiting: undefined where somebody else has it. */
export async function tryLock(path: string): Promise<Lock | undefined> {
  return take(path, ['--nonblock', '--conflict-exit-code', String(CONFLICT)]);
}

async function take(
  path: string,
  options: string[],
  signal?: AbortSignal,
): Promise<Lock | undefined> {
  const child = spawn(
    'flock',
    ['--exclusive', '--no-fork', ...options, path, 'sh', '-c', 'echo locked; exec cat >/dev/null'],
    { stdio: ['pipe', 'pipe', 'pipe'], detached: true },
  );
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text));
  child.stdin.on('error', () => undefined); // EPIPE of a child that is gone: its exit is what counts
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => resolve());
  });
  const abort = () => child.kill();
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const locked = await Promise.race([
      once(child.stdout, 'data').then(() => true),
      ended.then(() => false),
      once(child, 'error').then(([error]: unknown[]) => {
        throw error as Error;
      }),
    ]);
    if (!locked) {
      if (child.exitCode === CONFLICT) return undefined;
      if (signal?.aborted) {
        throw new ImageError('ERR_IMAGE_ABORTED', `locking ${path}: aborted`);
      }
      throw new ImageError('ERR_IMAGE_STORE', `cannot lock ${path}: ${complaint.trim()}`);
    }
  } catch (error) {
    if (error instanceof ImageError) throw error;
    throw new ImageError(
      'ERR_IMAGE_TOOL_MISSING',
      `cannot start flock, which locks the image store; install util-linux`,
      { cause: error },
    );
  } finally {
    signal?.removeEventListener('abort', abort);
  }
  return {
    async release() {
      child.stdin.end();
      await ended;
    },
  };
}
