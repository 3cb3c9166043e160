import { existsSync, readFileSync, statSync } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';

import { errnoOf, messageOf } from '../errors.js';
import { hexOf, layerName } from './digest.js';
import { ImageError } from './errors.js';
import type { Descriptor, Digest, ImageConfig, ImageIndex } from './types.js';

const RECORD_VERSION = 1;

/** What the store knows of an unpacked layer; its presence says that the layer is whole. */
export interface LayerRecord {
  version: number;
  diffId: Digest;
  /** Bytes of the tar. */
  size: number;
  opaqueRoot: boolean;
}

/** What the store knows of an image, in the form in which it is run and listed; made when it is loaded. */
export interface ImageRecord {
  version: number;
  id: Digest;
  digest: Digest;
  /** Bytes of the uncompressed layer tars. */
  size: number;
  config: ImageConfig;
  layers: { name: string; diffId: Digest; blob: Digest; blobSize: number; mediaType: string }[];
  /** Indexes into `layers` of those to mount, bottom first. */
  mounts: number[];
}

/**
 * The files of a store:
 *
 *     images/oci-layout, index.json, blobs/sha256/HEX     an OCI image layout
 *     layers/NAME/                                        unpacked layers
 *     records/layers/NAME.json, images/HEX.json           LayerRecord, ImageRecord (HEX: the manifest's digest)
 *     tmp/op-XXXXXX/                                      work in progress, locked by its owner
 *     pulls/HEX/pull.json, HEX                            what a pull (of the manifest HEX) has so far: pulls.ts
 *     locks/pull-XX                                       held by a pull whose HEX begins so
 *     lock                                                held by whoever changes any of the above but tmp and pulls
 *
 * Files appear by rename and are never changed, so that readers need no lock.
 */
export class Layout {
  readonly images: string;
  readonly blobs: string;
  readonly layers: string;
  readonly tmp: string;
  readonly pulls: string;
  readonly locks: string;
  readonly lockFile: string;
  readonly indexFile: string;
  readonly layerRecords: string;
  readonly imageRecords: string;

  /** @param root absolute */
  constructor(readonly root: string) {
    this.images = path.join(root, 'images');
    this.blobs = path.join(this.images, 'blobs', 'sha256');
    this.indexFile = path.join(this.images, 'index.json');
    this.layers = path.join(root, 'layers');
    this.layerRecords = path.join(root, 'records', 'layers');
    this.imageRecords = path.join(root, 'records', 'images');
    this.tmp = path.join(root, 'tmp');
    this.pulls = path.join(root, 'pulls');
    this.locks = path.join(root, 'locks');
    this.lockFile = path.join(root, 'lock');
  }

  /** Makes what is missing. @throws ImageError ERR_IMAGE_STORE */
  async create(): Promise<void> {
    try {
      // Layers hold set-id programs: nobody but the store's owner gets that far.
      await fs.mkdir(this.root, { recursive: true, mode: 0o700 });
      const records = [this.layerRecords, this.imageRecords];
      for (const directory of [this.blobs, this.layers, ...records, this.pulls, this.locks]) {
        await fs.mkdir(directory, { recursive: true, mode: 0o700 });
      }
      await fs.mkdir(this.tmp, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw storeError(`cannot make the image store in ${this.root}`, error);
    }
  }

  blobPath(digest: Digest): string {
    return path.join(this.blobs, hexOf(digest));
  }

  layerPath(name: string): string {
    return path.join(this.layers, name);
  }

  layerRecordPath(name: string): string {
    return path.join(this.layerRecords, `${name}.json`);
  }

  imageRecordPath(manifest: Digest): string {
    return path.join(this.imageRecords, `${hexOf(manifest)}.json`);
  }

  /** The index; empty when there is none yet. @throws ImageError ERR_IMAGE_STORE */
  readIndex(): ImageIndex {
    const index = readJson(this.indexFile) as ImageIndex | undefined;
    if (index === undefined) return { schemaVersion: 2, manifests: [] };
    if (index.schemaVersion !== 2 || !Array.isArray(index.manifests)) {
      throw new ImageError(
        'ERR_IMAGE_STORE',
        `${this.indexFile} is no OCI image index; restore it, or remove ${this.root} and load the images again`,
      );
    }
    return index;
  }

  /** The record of an unpacked layer, or undefined when it is not (wholly) there. */
  readLayerRecord(diffId: Digest): LayerRecord | undefined {
    const name = layerName(diffId);
    const record = readRecord(this.layerRecordPath(name)) as LayerRecord | undefined;
    return record?.diffId === diffId && existsSync(this.layerPath(name)) ? record : undefined;
  }

  /** Bytes of an unpacked layer's tar; 0 where nothing is known of it. */
  layerSize(name: string): number {
    const record = readRecord(this.layerRecordPath(name)) as LayerRecord | undefined;
    return record?.size ?? 0;
  }

  /** The record of an image, or undefined when it is missing, of another version, or a layer is gone. */
  readImageRecord(manifest: Digest): ImageRecord | undefined {
    const record = readRecord(this.imageRecordPath(manifest)) as ImageRecord | undefined;
    if (!record) return undefined;
    const whole = record.mounts.every((i) => {
      const layer = record.layers[i];
      return layer !== undefined && existsSync(this.layerPath(layer.name));
    });
    return whole ? record : undefined;
  }

  /** Replaces a file at once and for good: written beside, flushed, renamed, and the directory flushed. */
  async writeFile(file: string, content: string | Uint8Array, temporary: string): Promise<void> {
    const handle = await fs.open(temporary, 'wx', 0o600);
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fs.rename(temporary, file);
    await syncDirectory(path.dirname(file));
  }

  /** @param temporary a path that nothing has, on the store's file system */
  async writeIndex(manifests: Descriptor[], temporary: string): Promise<void> {
    const marker = path.join(this.images, 'oci-layout');
    if (!existsSync(marker)) {
      await this.writeFile(marker, '{"imageLayoutVersion":"1.0.0"}', temporary);
    }
    const mediaType = 'application/vnd.oci.image.index.v1+json';
    const index: ImageIndex = { schemaVersion: 2, mediaType, manifests };
    await this.writeFile(this.indexFile, JSON.stringify(index), temporary);
  }
}

/** A record with its version, as JSON. */
export function encodeRecord(
  record: Omit<ImageRecord, 'version'> | Omit<LayerRecord, 'version'>,
): string {
  return JSON.stringify({ version: RECORD_VERSION, ...record });
}

/** Flushes a directory's entries to the disk. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await fs.open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Reads a record; one that cannot be used is as good as none, because it can be made again from the blobs. */
function readRecord(file: string): { version: number } | undefined {
  let record: unknown;
  try {
    record = readJson(file);
  } catch (error) {
    if (error instanceof ImageError && error.cause instanceof SyntaxError) return undefined;
    throw error;
  }
  const version = (record as { version?: unknown } | undefined)?.version;
  return version === RECORD_VERSION ? (record as { version: number }) : undefined;
}

/** What was read before, by file, and of which file that was. */
const kept = new Map<string, { identity: string; content: unknown }>();
/** Files that are remembered; more than a process runs images. */
const MAX_KEPT = 64;

// Synchronous: two files of some KiB on the way to every container are read sooner than a thread pool is asked.
//
// Whoever runs many containers reads the same ones each time: files appear by rename, so that the same file has the same content.
function readJson(file: string): unknown {
  try {
    const { dev, ino, size, mtimeMs, ctimeMs } = statSync(file);
    const identity = `${dev}:${ino}:${size}:${mtimeMs}:${ctimeMs}`;
    const before = kept.get(file);
    if (before?.identity === identity) return before.content;
    const content = freeze(JSON.parse(readFileSync(file, 'utf8')));
    if (kept.size >= MAX_KEPT) kept.clear();
    kept.set(file, { identity, content });
    return content;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw storeError(`cannot read ${file}`, error);
  }
}

/** It is shared by all who read the file. */
function freeze(value: unknown): unknown {
  if (typeof value === 'object' && value !== null) {
    for (const member of Object.values(value)) freeze(member);
    Object.freeze(value);
  }
  return value;
}

function storeError(what: string, cause: unknown): ImageError {
  return new ImageError('ERR_IMAGE_STORE', `${what}: ${messageOf(cause)}`, { cause });
}
