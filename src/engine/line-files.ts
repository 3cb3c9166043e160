/** Files of lines that grow, and are rotated: FILE, FILE.1 and so on, the last one being the oldest. */
import { closeSync, existsSync, fstatSync, openSync, readSync, watch } from 'node:fs';

import { errnoOf } from '../errors.js';

export interface LinePlace {
  directory: string;
  /** The current file's name. */
  name: string;
}

export interface LineOptions {
  /** Begin with the last lines only; all unless given. */
  tail?: number;
  /** Wait for more while this holds. It is asked before the last look: what comes after that was written before. */
  goesOn?: () => boolean;
  /** No further waiting once this holds. */
  enough?: () => boolean;
  signal?: AbortSignal | undefined;
}

const CHUNK = 256 * 1024;
/** Where nobody tells of changes they are looked for this often, ms; the end of `goesOn` always is. */
const LOOK_AGAIN = 250;

/** Lines of a file from where it stands on. */
class LineFile {
  readonly inode: number;
  readonly #fd: number;
  #rest: Buffer = Buffer.alloc(0);
  #at: number;

  constructor(path: string, at = 0) {
    this.#fd = openSync(path, 'r');
    this.inode = fstatSync(this.#fd).ino;
    this.#at = at;
  }

  get size(): number {
    return fstatSync(this.#fd).size;
  }

  /** The next whole lines; none at the end. */
  next(): string[] {
    const chunk = Buffer.alloc(CHUNK);
    const got = readSync(this.#fd, chunk, 0, CHUNK, this.#at);
    this.#at += got;
    const data = Buffer.concat([this.#rest, chunk.subarray(0, got)]);
    const end = data.lastIndexOf(10) + 1;
    this.#rest = data.subarray(end);
    return end === 0 ? [] : data.toString('utf8', 0, end - 1).split('\n');
  }

  atEnd(): boolean {
    return this.#at >= this.size;
  }

  /** Where the last `count` lines begin, and how many there are. */
  findTail(count: number): { at: number; lines: number } {
    let lines = 0;
    let end = this.size;
    while (end > 0) {
      const start = Math.max(0, end - CHUNK);
      const chunk = Buffer.alloc(end - start);
      readSync(this.#fd, chunk, 0, chunk.length, start);
      for (let i = chunk.lastIndexOf(10); i >= 0; i = i === 0 ? -1 : chunk.lastIndexOf(10, i - 1)) {
        // The line end behind the last line is none before another.
        if (start + i + 1 === this.size) continue;
        if (++lines === count) return { at: start + i + 1, lines };
      }
      end = start;
    }
    return { at: 0, lines: this.size > 0 ? lines + 1 : 0 };
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function open(path: string, at = 0): LineFile | undefined {
  try {
    return new LineFile(path, at);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** The files, oldest first, and where to begin in the first one. */
function openFrom({ directory, name }: LinePlace, tail: number): LineFile[] {
  const files: LineFile[] = [];
  let wanted = tail;
  for (let n = 0; wanted > 0; n++) {
    const path = `${directory}/${name}${n === 0 ? '' : `.${n}`}`;
    const file = open(path);
    if (!file) break;
    if (wanted === Number.POSITIVE_INFINITY) {
      files.unshift(file);
      continue;
    }
    const { at, lines } = file.findTail(wanted);
    file.close();
    wanted -= lines;
    files.unshift(new LineFile(path, at));
  }
  return files;
}

/** Whole lines as they are there, and as they come. */
export async function* readLines(
  place: LinePlace,
  options: LineOptions = {},
): AsyncGenerator<string[]> {
  const tail = options.tail ?? Number.POSITIVE_INFINITY;
  const path = `${place.directory}/${place.name}`;
  let current: LineFile | undefined;
  const files = tail > 0 ? openFrom(place, tail) : [];
  if (tail === 0) {
    const file = open(path);
    if (file) files.push(new LineFile(path, file.size));
    file?.close();
  }
  try {
    while (files.length > 0) {
      current = files.shift();
      if (!current) break;
      do yield current.next();
      while (!current.atEnd());
      if (files.length > 0) current.close();
    }
    if (!options.goesOn) return;
    const changes = new Changes(place.directory, options.signal);
    try {
      for (;;) {
        const active = options.goesOn();
        current ??= open(path);
        if (current) {
          do yield current.next();
          while (!current.atEnd());
          const newest = open(path);
          const rotated = newest && newest.inode !== current.inode;
          if (rotated) {
            // Something may have been written to the old one since.
            yield current.next();
            current.close();
            current = newest;
            continue;
          }
          newest?.close();
        }
        if (!active || options.signal?.aborted || options.enough?.()) return;
        await changes.next();
      }
    } finally {
      changes.close();
    }
  } finally {
    current?.close();
    for (const file of files) file.close();
  }
}

/** Changes in a directory, and the time that passes. */
class Changes {
  #wake: () => void = () => {};
  #changed = false;
  readonly #close: () => void;

  constructor(directory: string, signal?: AbortSignal) {
    const notice = (): void => {
      this.#changed = true;
      this.#wake();
    };
    const timer = setInterval(notice, LOOK_AGAIN);
    const watcher = existsSync(directory) ? watch(directory, notice) : undefined;
    // The timer does it then.
    watcher?.on('error', () => {});
    signal?.addEventListener('abort', notice);
    this.#close = () => {
      clearInterval(timer);
      watcher?.close();
      signal?.removeEventListener('abort', notice);
    };
  }

  async next(): Promise<void> {
    if (!this.#changed) await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#changed = false;
  }

  close(): void {
    this.#close();
  }
}
