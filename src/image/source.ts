import { createReadStream } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { errnoOf } from '../errors.js';
import { classifyDecompression, decompressor, peekCompression } from './compression.js';
import { ImageError, toImageError } from './errors.js';
import { Meter } from './meter.js';
import { ProgressStep } from './progress.js';
import type { ImageSource, ProgressListener } from './types.js';
import { startTar, tarFailure } from './untar.js';
import type { Workspace } from './workspace.js';

/** A source of images as a directory: an OCI layout, or what docker save puts into its tar. */
export interface SourceDirectory {
  path: string;
  /** The directory is in our workspace: its files may be moved. */
  owned: boolean;
  /** What messages call it. */
  label: string;
  /** The source's own file name, where it has one. */
  fileName?: string;
}

/**
 * Makes a directory of a source: archives are unpacked into the workspace.
 *
 * @throws ImageError ERR_IMAGE_SOURCE, ERR_IMAGE_ARCHIVE_*, ERR_IMAGE_NO_SPACE, ERR_IMAGE_ABORTED
 */
export async function openSource(
  source: ImageSource,
  workspace: Workspace,
  options: { onProgress?: ProgressListener | undefined; signal?: AbortSignal | undefined },
): Promise<SourceDirectory> {
  let stream: Readable;
  let label = 'the archive';
  let total: number | undefined;
  if (typeof source === 'string') {
    label = source;
    const found = await statSource(source);
    if (found.isDirectory()) {
      return { path: path.resolve(source), owned: false, label, fileName: path.basename(source) };
    }
    if (found.isFile()) total = found.size;
    stream = createReadStream(source, { highWaterMark: 1 << 20 });
  } else {
    stream = source;
  }
  const directory = workspace.at('archive');
  const scratch = workspace.at('archive-root');
  await fs.mkdir(directory, { mode: 0o700 });
  await fs.mkdir(scratch);
  const progress = new ProgressStep(options.onProgress, 'read', label, total);
  const { signal } = options;
  try {
    const { compression, stream: whole } = await peekCompression(stream);
    const meter = new Meter({ onBytes: (size) => progress.update(size) });
    const unzip = decompressor(compression, signal);
    const { stdin, done } = startTar({
      directory,
      scratch,
      attributes: false,
      padEnd: false,
      signal,
    });
    const failure = await pipeline(unzip ? [whole, meter, unzip, stdin] : [whole, meter, stdin], {
      signal,
    }).catch((error: unknown) => error ?? new Error('failed'));
    const report = await done;
    if (signal?.aborted) throw new ImageError('ERR_IMAGE_ABORTED', `${label}: aborted`);
    const damage = failure === undefined ? undefined : classifyDecompression(failure);
    if (damage === 'truncated') throw truncated(label, failure);
    if (damage === 'damaged') throw notAnArchive(label, 'it does not decompress', failure);
    if (failure !== undefined) {
      throw toImageError(failure, 'ERR_IMAGE_SOURCE', `cannot read ${label}`);
    }
    const refused = tarFailure(label, report, ARCHIVE_CODES);
    if (refused) throw refused;
    if (!report.complete) throw truncated(label);
    progress.finish();
  } catch (error) {
    throw toImageError(error, 'ERR_IMAGE_SOURCE', `cannot read ${label}`);
  } finally {
    stream.destroy();
  }
  return {
    path: directory,
    owned: true,
    label,
    ...(typeof source === 'string' ? { fileName: path.basename(source) } : {}),
  };
}

/** @throws ImageError ERR_IMAGE_SOURCE */
export async function statSource(source: string): Promise<import('node:fs').Stats> {
  try {
    return await fs.stat(source);
  } catch (error) {
    const why =
      errnoOf(error) === 'ENOENT' ? 'no such file or directory' : (error as Error).message;
    throw new ImageError('ERR_IMAGE_SOURCE', `cannot open ${source}: ${why}; check the path`, {
      cause: error,
    });
  }
}

/**
 * The real path of a plain file that an archive names, or undefined when there is none. Archives may hold symbolic
 * links (docker save has used them for layers that two images share), which must not lead outside.
 *
 * @throws ImageError ERR_IMAGE_ARCHIVE_ESCAPE
 */
export async function fileInside(
  source: SourceDirectory,
  name: string,
): Promise<{ path: string; size: number } | undefined> {
  const root = await fs.realpath(source.path);
  const wanted = path.join(root, name);
  let real: string;
  try {
    real = await fs.realpath(wanted);
  } catch (error) {
    if (!isInside(root, wanted)) throw escape(source, name);
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(errnoOf(error))) return undefined;
    throw toImageError(error, 'ERR_IMAGE_SOURCE', `cannot read ${name} of ${source.label}`);
  }
  if (!isInside(root, wanted) || !isInside(root, real)) throw escape(source, name);
  const found = await fs.lstat(real);
  return found.isFile() ? { path: real, size: found.size } : undefined;
}

/**
 * Reads a small file (JSON) of an archive; undefined when there is none.
 *
 * @throws ImageError ERR_IMAGE_ARCHIVE_ESCAPE, ERR_IMAGE_ARCHIVE_FORMAT when it is larger than `limit` bytes
 */
export async function readInside(
  source: SourceDirectory,
  name: string,
  limit: number,
): Promise<Buffer | undefined> {
  const file = await fileInside(source, name);
  if (!file) return undefined;
  if (file.size > limit) {
    throw notAnArchive(source.label, `its ${name} has ${file.size} bytes, the limit is ${limit}`);
  }
  return fs.readFile(file.path);
}

const ARCHIVE_CODES = {
  escape: 'ERR_IMAGE_ARCHIVE_ESCAPE',
  format: 'ERR_IMAGE_ARCHIVE_FORMAT',
  other: 'ERR_IMAGE_ARCHIVE_FORMAT',
} as const;

function isInside(root: string, file: string): boolean {
  return file.startsWith(`${root}/`);
}

function escape(source: SourceDirectory, name: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_ARCHIVE_ESCAPE',
    `${source.label} names ${JSON.stringify(name)}, which leads outside it; do not trust this image`,
  );
}

function truncated(label: string, cause?: unknown): ImageError {
  return new ImageError(
    'ERR_IMAGE_ARCHIVE_TRUNCATED',
    `${label} ends before its end; get it again`,
    { cause },
  );
}

function notAnArchive(label: string, why: string, cause?: unknown): ImageError {
  return new ImageError(
    'ERR_IMAGE_ARCHIVE_FORMAT',
    `${label} is no image archive: ${why}; it takes one made by "docker save", or an OCI layout`,
    { cause },
  );
}
