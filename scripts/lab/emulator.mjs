// An emulator's process, which must not outlive us, whatever happens to us.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { findProgram } from './cache.mjs';

const running = new Set();

process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

const TAIL_BYTES = 8192;

export class Emulator {
  /** The emulator itself, not a shell around it. */
  child;
  /** Resolves to how it ended, in words. Never rejects. */
  ended;
  /** @type {((text: string) => void) | undefined} is given what it prints */
  onConsole;
  #tail = '';

  /**
   * Starts it.
   *
   * @param {string} program
   * @param {string[]} args
   * @param {import('node:child_process').StdioOptions} stdio at least three; 1 and 2 must be pipes
   */
  constructor(program, args, stdio) {
    // The kernel kills it when the thread that started it ends: our own SIGKILL included, which leaves no
    // other chance. Between the fork and setpriv's system call we would have to die within microseconds.
    this.child = spawn(findProgram('setpriv'), ['--pdeathsig', 'SIGKILL', program, ...args], {
      stdio,
    });
    running.add(this.child);
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.on('data', (bytes) => {
        const text = bytes.toString('latin1');
        this.#tail = (this.#tail + text).slice(-TAIL_BYTES);
        this.onConsole?.(text);
      });
    }
    const { stdout, stderr } = this.child;
    const said = Promise.all([stdout, stderr].map((stream) => once(stream, 'close')));
    this.ended = new Promise((resolve) => {
      this.child.on('error', (error) => resolve(error.message));
      // Not "close": that would wait for a reader of the lab's channel that may be paused.
      this.child.on('exit', async (status, signal) => {
        await said;
        resolve(signal ? `signal ${signal}` : `exit status ${status}`);
      });
    }).finally(() => running.delete(this.child));
  }

  /** The last lines that it printed. */
  consoleTail() {
    return this.#tail.replaceAll('\r', '').trimEnd().split('\n').slice(-40).join('\n');
  }

  /** Ends it and waits until it is gone. */
  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }
}
