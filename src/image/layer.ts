import { createReadStream } from 'node:fs';
import fs from 'node:fs/promises';
import { Writable, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import {
  classifyDecompression,
  decompressor,
  peekCompression,
  type Compression,
} from './compression.js';
import { checkDigest } from './digest.js';
import { ImageError, toImageError } from './errors.js';
import { Meter } from './meter.js';
import { ProgressStep } from './progress.js';
import type { Digest, ProgressListener } from './types.js';
import { startTar, tarFailure } from './untar.js';
import { convertWhiteouts } from './whiteout.js';

export interface ReadLayerOptions {
  /** What messages call it. */
  what: string;
  /** A file, or a stream. */
  source: string | Readable;
  /** Bytes of the blob, checked where given. */
  size?: number | undefined;
  /** Digest of the blob as it is, checked where given. */
  digest?: Digest | undefined;
  /** Digest of the tar inside, checked where given; without it the tar must have its end marker. */
  diffId?: Digest | undefined;
  /** A file to make, for a copy of the blob. */
  copy?: string | undefined;
  /** Compressions that are kept in the copy as they are; others are undone. */
  keep: Compression[];
  /** A directory to make and to unpack into; without it the layer is only checked. */
  directory?: string | undefined;
  /** A path that nothing has; what is made there and beside it (PATH-...) is removed again. */
  scratch: string;
  onProgress?: ProgressListener | undefined;
  /** What progress is reported as. */
  subject: string;
  total?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface ReadLayerResult {
  /** Of the blob, or of its copy where that was decompressed. */
  digest: Digest;
  size: number;
  compression: Compression;
  diffId: Digest;
  /** Bytes of the tar. */
  diffSize: number;
  opaqueRoot: boolean;
}

/**
 * Reads a layer once: hashes it as it comes, hashes what is in it, unpacks that, and converts its whiteouts. Nothing
 * unpacked may be used before this has returned.
 *
 * @throws ImageError ERR_IMAGE_DIGEST_MISMATCH, ERR_IMAGE_ARCHIVE_TRUNCATED, ERR_LAYER_*, ERR_IMAGE_NO_SPACE, ...
 */
export async function readLayer(options: ReadLayerOptions): Promise<ReadLayerResult> {
  const { what, signal } = options;
  const progress = new ProgressStep(options.onProgress, 'unpack', options.subject, options.total);
  const source =
    typeof options.source === 'string'
      ? createReadStream(options.source, { highWaterMark: 1 << 20 })
      : options.source;
  const copy = options.copy === undefined ? undefined : await fs.open(options.copy, 'wx', 0o600);
  try {
    const { compression, stream } = await peekCompression(source);
    const asIs = options.keep.includes(compression);
    const outer = new Meter({
      copy: asIs ? copy : undefined,
      onBytes: (size) => progress.update(size),
    });
    const inner = new Meter({ copy: asIs ? undefined : copy });
    const unzip = decompressor(compression, signal);
    const unpacking = options.directory === undefined ? undefined : await begin(options);
    const sink = unpacking?.stdin ?? devNull();
    const failure = await pipeline(
      unzip ? [stream, outer, unzip, inner, sink] : [stream, outer, inner, sink],
      { signal },
    ).catch((error: unknown) => error ?? new Error('failed'));
    const report = await settle(unpacking?.done);

    if (signal?.aborted) throw new ImageError('ERR_IMAGE_ABORTED', `${what}: aborted`);
    if (failure !== undefined)
      throw await readFailure(what, failure, outer, options, unzip !== undefined);
    const digest = outer.digest();
    checkDigest(what, { digest, size: outer.size }, options);
    const diffId = inner.digest();
    if (options.diffId !== undefined && diffId !== options.diffId) {
      throw new ImageError(
        'ERR_IMAGE_DIGEST_MISMATCH',
        `${what} unpacks to digest ${diffId}, the image's config says ${options.diffId}; get the image again`,
      );
    }
    if (report instanceof Error) throw report;
    const refused = report && tarFailure(what, report, LAYER_CODES);
    if (refused) throw refused;
    if (report && options.diffId === undefined && !report.complete) {
      throw new ImageError(
        'ERR_IMAGE_ARCHIVE_TRUNCATED',
        `${what} ends without a tar archive's end marker, so it may be cut short; get it again`,
      );
    }
    let opaqueRoot = false;
    if (report && options.directory !== undefined && report.whiteouts.length > 0) {
      const scratch = `${options.scratch}-whiteout`;
      const converted = await convertWhiteouts(
        options.directory,
        report.whiteouts,
        scratch,
        signal,
      );
      opaqueRoot = converted.opaqueRoot;
    }
    progress.finish();
    return {
      digest: asIs ? digest : diffId,
      size: asIs ? outer.size : inner.size,
      compression: asIs ? compression : 'none',
      diffId,
      diffSize: inner.size,
      opaqueRoot,
    };
  } catch (error) {
    throw toImageError(error, 'ERR_IMAGE_SOURCE', `cannot read ${what}`);
  } finally {
    await copy?.close();
    source.destroy();
  }
}

const LAYER_CODES = {
  escape: 'ERR_LAYER_PATH_ESCAPE',
  format: 'ERR_LAYER_FORMAT',
  other: 'ERR_LAYER_UNPACK',
} as const;

async function begin(options: ReadLayerOptions): Promise<ReturnType<typeof startTar>> {
  const directory = options.directory ?? '';
  const scratch = `${options.scratch}-root`;
  await fs.mkdir(directory, { mode: 0o755 });
  await fs.chmod(directory, 0o755); // whatever the umask
  await fs.mkdir(scratch);
  const { stdin, done } = startTar({
    directory,
    scratch,
    attributes: true,
    padEnd: options.diffId !== undefined,
    signal: options.signal,
  });
  const cleaned = done.finally(() => fs.rmdir(scratch));
  cleaned.catch(() => undefined);
  return { stdin, done: cleaned };
}

async function settle<T>(promise: Promise<T> | undefined): Promise<T | Error | undefined> {
  return promise?.catch((error: unknown) =>
    error instanceof Error ? error : new Error(String(error)),
  );
}

/** What a broken pipeline means. A blob that is not what it should be explains everything that follows from it. */
async function readFailure(
  what: string,
  failure: unknown,
  outer: Meter,
  options: ReadLayerOptions,
  compressed: boolean,
): Promise<unknown> {
  const kind = compressed ? classifyDecompression(failure) : undefined;
  if (kind === undefined) return failure;
  if (typeof options.source === 'string' && options.digest !== undefined) {
    const actual = await digestOfFile(options.source);
    checkDigest(what, actual, options);
  }
  return kind === 'truncated'
    ? new ImageError('ERR_IMAGE_ARCHIVE_TRUNCATED', `${what} ends before its end; get it again`, {
        cause: failure,
      })
    : new ImageError(
        'ERR_LAYER_FORMAT',
        `${what} is damaged: it does not decompress (after ${outer.size} bytes); get it again`,
        { cause: failure },
      );
}

/** Hashes a file. */
export async function digestOfFile(file: string): Promise<{ digest: Digest; size: number }> {
  const meter = new Meter();
  await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), meter, devNull());
  return { digest: meter.digest(), size: meter.size };
}

function devNull(): Writable {
  return new Writable({ highWaterMark: 1 << 20, write: (_chunk, _encoding, done) => done() });
}
