import { Readable } from 'node:stream';

import type { Descriptor } from '../types.js';
import type { Response } from './connection.js';
import { RegistryError } from './errors.js';
import type { Repository } from './repository.js';
import { headerOf } from './responses.js';
import { withRetries } from './retry.js';

/** Blobs up to this size go in one request; others in pieces of it, of which a broken connection costs one. */
const PIECE = 32 << 20;

/** What an upload takes bytes `start` to `end` (exclusive) from. */
export type BlobReader = (start: number, end: number) => Readable;

export type UploadOutcome = 'exists' | 'mounted' | 'uploaded';

/**
 * Makes a repository have a blob: finds it there, mounts it from another repository of the registry, or uploads it.
 *
 * @param from repositories of the same registry that may have it, by path
 * @param onBytes told how much has been sent
 * @throws ImageError ERR_REGISTRY_*, ERR_IMAGE_ABORTED
 */
export async function uploadBlob(
  repository: Repository,
  blob: Pick<Descriptor, 'digest' | 'size'>,
  read: BlobReader,
  options: { from?: string | undefined; onBytes?: (size: number) => void } = {},
): Promise<{ outcome: UploadOutcome; from?: string }> {
  const upload = new Upload(repository, blob, read, options.onBytes ?? (() => undefined));
  let before = 0;
  return withRetries(
    () => upload.attempt(options.from),
    repository.options,
    () => {
      const advanced = upload.sent > before;
      before = upload.sent;
      return advanced;
    },
  );
}

class Upload {
  /** Bytes that the registry is known to have. */
  sent = 0;
  /** Where the upload goes on, once it has begun. */
  #location: string | undefined;

  constructor(
    readonly repository: Repository,
    readonly blob: Pick<Descriptor, 'digest' | 'size'>,
    readonly read: BlobReader,
    readonly onBytes: (size: number) => void,
  ) {}

  async attempt(from?: string): Promise<{ outcome: UploadOutcome; from?: string }> {
    if (await this.#exists()) {
      // After a failure: what got lost was only the answer.
      return { outcome: this.#location === undefined ? 'exists' : 'uploaded' };
    }
    if (this.#location === undefined) {
      if (await this.#begin(from)) return { outcome: 'mounted', ...(from ? { from } : {}) };
    } else {
      await this.#askHowFar();
    }
    if (this.blob.size > PIECE) {
      while (this.sent < this.blob.size) await this.#sendPiece();
    }
    await this.#finish();
    return { outcome: 'uploaded' };
  }

  async #exists(): Promise<boolean> {
    const response = await this.repository.send(`blobs/${this.blob.digest}`, { method: 'HEAD' });
    await response.body.dump();
    if (response.status === 200) return true;
    if (response.status === 404) return false;
    throw await this.#refused(response);
  }

  /** Returns whether the blob was mounted from another repository. */
  async #begin(from: string | undefined): Promise<boolean> {
    const query = from === undefined ? '' : `?mount=${this.blob.digest}&from=${from}`;
    const response = await this.repository.send(`blobs/uploads/${query}`, { method: 'POST' });
    if (response.status === 201) {
      await response.body.dump();
      return true;
    }
    if (response.status !== 202) throw await this.#refused(response);
    await response.body.dump();
    this.sent = 0;
    this.#goOnAt(response);
    return false;
  }

  /** After a failure: how much has arrived, or a fresh start. */
  async #askHowFar(): Promise<void> {
    const location = this.#location ?? '';
    const response = this.blob.size > PIECE ? await this.repository.send(location) : undefined;
    await response?.body.dump();
    const end = /^(?:bytes=)?0-(\d+)$/.exec((response && headerOf(response, 'range')) ?? '');
    if (response?.status === 204 && end && Number(end[1]) < this.blob.size) {
      // "0-0" of an empty upload is the same as that of one byte: that byte is sent again from the start.
      this.sent = Number(end[1]) === 0 ? 0 : Number(end[1]) + 1;
      this.#goOnAt(response);
      if (this.sent > 0) return;
    }
    this.#location = undefined;
    await this.#begin(undefined);
  }

  async #sendPiece(): Promise<void> {
    const start = this.sent;
    const end = Math.min(start + PIECE, this.blob.size);
    const response = await this.#put('PATCH', this.#location ?? '', start, end, {
      'content-range': `${start}-${end - 1}`,
    });
    if (response.status !== 202) throw await this.#refused(response);
    await response.body.dump();
    this.sent = end;
    this.#goOnAt(response);
  }

  async #finish(): Promise<void> {
    const url = new URL(this.#location ?? '');
    url.searchParams.set('digest', this.blob.digest);
    const response = await this.#put('PUT', url.href, this.sent, this.blob.size, {});
    if (response.status !== 201) throw await this.#refused(response);
    await response.body.dump();
    this.sent = this.blob.size;
  }

  #put(
    method: 'PUT' | 'PATCH',
    url: string,
    start: number,
    end: number,
    headers: Record<string, string>,
  ): Promise<Response> {
    return this.repository.send(url, {
      method,
      headers: {
        'content-type': 'application/octet-stream',
        'content-length': String(end - start),
        ...headers,
      },
      body: () => Readable.from(this.#bytes(start, end), { objectMode: false }),
    });
  }

  async *#bytes(start: number, end: number): AsyncGenerator<Buffer> {
    if (start === end) return;
    let done = start;
    for await (const chunk of this.read(start, end)) {
      yield chunk as Buffer;
      this.onBytes((done += (chunk as Buffer).length));
    }
  }

  #goOnAt(response: Response): void {
    const { origin, endpoint } = this.repository.connection;
    const text = headerOf(response, 'location') ?? '';
    const url = URL.canParse(text, origin) ? new URL(text, origin) : undefined;
    if (text === '' || (url?.protocol !== 'https:' && url?.protocol !== 'http:')) {
      throw new RegistryError(
        'ERR_REGISTRY_RESPONSE',
        `the registry ${endpoint.name} does not say where to upload to, but ${JSON.stringify(text)}`,
      );
    }
    // Behind a proxy that ends TLS, a registry may take itself for one without.
    if (url.host === endpoint.host) url.protocol = new URL(origin).protocol;
    this.#location = url.href;
  }

  async #refused(response: Response): Promise<Error> {
    const { blob, repository } = this;
    const refused = await repository.refusal(
      response,
      `the upload of ${blob.digest} to ${repository.name}`,
    );
    // What arrived was not what was sent, or the upload is gone: begin anew.
    if (this.#location === undefined || ![400, 404, 416].includes(response.status)) return refused;
    this.#location = undefined;
    return new RegistryError('ERR_REGISTRY_RESPONSE', refused.message, { transient: true });
  }
}
