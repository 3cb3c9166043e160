/** The container's standard streams: file descriptors for the VMM, and streams for the caller where it wants some. */
import { Socket } from 'node:net';
import { Readable, type Writable } from 'node:stream';

import type { Addon, Channel } from './addon-types.js';

/**
 * `pipe`: a stream of the caller's; `inherit`: this process's own stream, whose descriptor the VMM gets, so that no byte passes
 * through Node; `ignore`: /dev/null; a number: that descriptor, which stays the caller's to close.
 */
export type Stdio = 'pipe' | 'inherit' | 'ignore' | number;

export interface StdioOptions {
  stdin: Stdio;
  stdout: Stdio;
  stderr: Stdio;
}

const NAMES = ['stdin', 'stdout', 'stderr'] as const;

/** The descriptors of one VMM's stdio. Pipes are made at once; streams only when they are asked for. */
export class StdioFds {
  /** What the VMM gets as stdin, stdout and stderr; -1 is /dev/null. */
  readonly vmm: number[] = [];
  readonly #ours: number[] = [-1, -1, -1];
  readonly #toClose: number[] = [];
  readonly #addon: Addon;

  constructor(addon: Addon, options: StdioOptions) {
    this.#addon = addon;
    NAMES.forEach((name, index) => {
      const wanted = options[name];
      if (wanted === 'ignore') {
        this.vmm.push(-1);
      } else if (wanted === 'inherit') {
        this.vmm.push(index);
      } else if (wanted === 'pipe') {
        const [read, write] = addon.pipe();
        const [theirs, ours] = name === 'stdin' ? [read, write] : [write, read];
        this.vmm.push(theirs);
        this.#toClose.push(theirs);
        this.#ours[index] = ours;
      } else {
        this.vmm.push(wanted);
      }
    });
  }

  /** Closes the VMM's ends, which it has its own copies of by now. */
  closeVmmEnds(): void {
    for (const fd of this.#toClose.splice(0)) this.#addon.closeFd(fd);
  }

  /** The caller's ends as streams; null where there is none. To be called once, and not after `closeAll`. */
  streams(): { stdin: Writable | null; stdout: Readable | null; stderr: Readable | null } {
    const [stdin, stdout, stderr] = this.#ours.splice(0) as [number, number, number];
    return {
      stdin: stdin < 0 ? null : openWritable(stdin),
      stdout: stdout < 0 ? null : openReadable(this.#addon, stdout),
      stderr: stderr < 0 ? null : openReadable(this.#addon, stderr),
    };
  }

  /** Closes everything that was made here: for a start that failed. */
  closeAll(): void {
    this.closeVmmEnds();
    for (const fd of this.#ours.splice(0)) if (fd >= 0) this.#addon.closeFd(fd);
  }
}

/**
 * For a command that has ended: takes what its pipes still hold, at most READ_AHEAD, into the streams, so that no descriptor stays
 * open for a stream that is read later, or never.
 */
export function settleStreams(streams: {
  stdin: Writable | null;
  stdout: Readable | null;
  stderr: Readable | null;
}): void {
  streams.stdin?.destroy();
  streams.stdout?.read(0);
  streams.stderr?.read(0);
}

/** A stream into one end of a pipe, driven by the event loop and not by the thread pool. */
function openWritable(fd: number): Writable {
  return new Socket({ fd, readable: false, writable: true, allowHalfOpen: true });
}

/** Bytes that may wait for a reader; more wait in the pipe. */
const READ_AHEAD = 256 * 1024;

/** A stream out of one end of a pipe. One of Node's sockets would do, and takes ten times as long to make. */
function openReadable(addon: Addon, fd: number): Readable {
  let channel: Channel | undefined;
  const stream: Readable = new Readable({
    highWaterMark: READ_AHEAD,
    read() {
      if (channel) {
        channel.resume();
        return;
      }
      const opened = addon.openChannel(fd, (chunk) => {
        if (!stream.push(chunk)) opened.pause();
      });
      channel = opened;
    },
    destroy(error, done) {
      if (channel) channel.close();
      else addon.closeFd(fd);
      done(error);
    },
  });
  return stream;
}
