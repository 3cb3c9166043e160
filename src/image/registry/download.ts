import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import fs, { type FileHandle } from 'node:fs/promises';

import { writeAll } from '../meter.js';
import type { Descriptor, Digest } from '../types.js';
import { RegistryError } from './errors.js';
import type { Repository } from './repository.js';
import { headerOf } from './responses.js';
import { withRetries } from './retry.js';

/** An attempt that brought this much does not count as one that failed. */
const ADVANCE = 256 << 10;

/**
 * Downloads a blob into a file, which may hold the beginning of it already; goes on where a connection broke. The file
 * is there afterwards only if it is the blob, or (when this fails) the beginning of something that may become it.
 *
 * @param onBytes told how much there is
 * @throws ImageError ERR_REGISTRY_*, ERR_IMAGE_DIGEST_MISMATCH, ERR_IMAGE_ABORTED; system errors of the file
 */
export async function downloadBlob(
  repository: Repository,
  descriptor: Pick<Descriptor, 'digest' | 'size'>,
  file: string,
  onBytes: (size: number) => void,
): Promise<void> {
  const handle = await fs.open(file, 'a', 0o600);
  try {
    const download = new Download(repository, descriptor, handle, onBytes);
    await download.hashExisting(file);
    let before = download.size;
    await withRetries(
      () => download.attempt(),
      repository.options,
      () => {
        const advanced = download.size >= before + ADVANCE;
        before = download.size;
        return advanced;
      },
    );
  } finally {
    await handle.close();
  }
}

class Download {
  size = 0;
  #hash: Hash = createHash('sha256');

  constructor(
    readonly repository: Repository,
    readonly blob: Pick<Descriptor, 'digest' | 'size'>,
    readonly handle: FileHandle,
    readonly onBytes: (size: number) => void,
  ) {}

  /** What an earlier download left. */
  async hashExisting(file: string): Promise<void> {
    for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
      this.#hash.update(chunk as Buffer);
      this.size += (chunk as Buffer).length;
    }
    if (this.size > this.blob.size) await this.#restart();
    else this.onBytes(this.size);
  }

  async attempt(): Promise<void> {
    if (this.size < this.blob.size) await this.#receive();
    const digest: Digest = `sha256:${this.#hash.copy().digest('hex')}`;
    if (digest === this.blob.digest) return;
    await this.#restart();
    throw new RegistryError(
      'ERR_IMAGE_DIGEST_MISMATCH',
      `the blob ${this.blob.digest} of ${this.repository.name} came as ${digest}; try again, and do not trust the connection`,
      { transient: true },
    );
  }

  async #receive(): Promise<void> {
    const { repository, blob } = this;
    const range = this.size > 0 ? { range: `bytes=${this.size}-` } : undefined;
    const response = await repository.send(`blobs/${blob.digest}`, range ? { headers: range } : {});
    if (response.status === 416) {
      await response.body.dump();
      await this.#restart();
      throw this.#failed('does not go on where it broke off');
    }
    if (response.status !== 200 && response.status !== 206) {
      throw await repository.refusal(response, `the blob ${blob.digest} of ${repository.name}`);
    }
    const begins = response.status === 206 ? rangeStart(headerOf(response, 'content-range')) : 0;
    if (begins !== this.size) {
      await this.#restart();
      if (begins !== 0) {
        response.body.destroy();
        throw this.#failed('sends another part than it was asked for');
      }
    }
    let ours: unknown;
    try {
      for await (const chunk of response.body as AsyncIterable<Buffer>) {
        if (this.size + chunk.length > blob.size) {
          await this.#restart();
          throw this.#failed(`has more than the ${blob.size} bytes that its descriptor says`);
        }
        await writeAll(this.handle, chunk).catch((error: unknown) => {
          ours = error;
          throw error;
        });
        this.#hash.update(chunk);
        this.size += chunk.length;
        this.onBytes(this.size);
      }
    } catch (error) {
      throw error === ours ? error : repository.connection.failure(error);
    }
    if (this.size < blob.size) throw this.#failed(`ended after ${this.size} of ${blob.size} bytes`);
  }

  async #restart(): Promise<void> {
    await this.handle.truncate(0);
    this.#hash = createHash('sha256');
    this.size = 0;
    this.onBytes(0);
  }

  #failed(why: string): RegistryError {
    return new RegistryError(
      'ERR_REGISTRY_RESPONSE',
      `the blob ${this.blob.digest} of ${this.repository.name} ${why}`,
      { transient: true },
    );
  }
}

function rangeStart(header: string | undefined): number | undefined {
  const match = /^bytes (\d+)-/.exec(header ?? '');
  return match ? Number(match[1]) : undefined;
}
