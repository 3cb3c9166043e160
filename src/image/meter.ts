import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { Transform, type TransformCallback } from 'node:stream';

import type { Digest } from './types.js';

/** Passes bytes on, counting and hashing them, and on the way writes them to `copy` if there is one. */
export class Meter extends Transform {
  size = 0;
  readonly #hash = createHash('sha256');
  readonly #copy: FileHandle | undefined;
  readonly #onBytes: ((size: number) => void) | undefined;

  constructor(options: { copy?: FileHandle | undefined; onBytes?: (size: number) => void } = {}) {
    super({ highWaterMark: 1 << 20 });
    this.#copy = options.copy;
    this.#onBytes = options.onBytes;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, callback: TransformCallback): void {
    this.size += chunk.length;
    this.#hash.update(chunk);
    this.#onBytes?.(this.size);
    if (!this.#copy) {
      callback(null, chunk);
      return;
    }
    writeAll(this.#copy, chunk).then(
      () => callback(null, chunk),
      (error: unknown) => callback(error as Error),
    );
  }

  /** The digest of everything that went through; once, at the end. */
  digest(): Digest {
    return `sha256:${this.#hash.digest('hex')}`;
  }
}

/** Writes all of it, whatever the kernel takes at once. */
export async function writeAll(file: FileHandle, chunk: Buffer): Promise<void> {
  let offset = 0;
  while (offset < chunk.length) {
    const { bytesWritten } = await file.write(chunk, offset);
    offset += bytesWritten;
  }
}
