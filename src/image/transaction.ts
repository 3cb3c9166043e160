import { existsSync } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';

import type { Candidate, CandidateLayer } from './candidates.js';
import type { Compression } from './compression.js';
import { layerName, sha256, shortDigest } from './digest.js';
import { withImage } from './entries.js';
import { ImageError, toImageError } from './errors.js';
import { readLayer, type ReadLayerOptions } from './layer.js';
import { encodeRecord, syncDirectory, type ImageRecord, type Layout } from './layout.js';
import { lock } from './lock.js';
import { ProgressStep } from './progress.js';
import { sweep } from './sweep.js';
import { runTool } from './tools.js';
import type { Descriptor, Digest, ImageConfig, ImageManifest, ProgressListener } from './types.js';
import type { Workspace } from './workspace.js';

const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json';
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar';
/** The compressions that have a layer media type. */
export const LAYER_COMPRESSIONS: Compression[] = ['none', 'gzip', 'zstd'];
export const ANY_COMPRESSION: Compression[] = [...LAYER_COMPRESSIONS, 'xz', 'bzip2'];

/** Docker's limit. 27 characters for each must fit the page of overlayfs's mount options, beside upper and work. */
const MAX_LAYERS = 127;

/** A layer that has been read and checked. */
export interface StagedLayer {
  diffId: Digest;
  diffSize: number;
  digest: Digest;
  size: number;
  mediaType: string;
  opaqueRoot: boolean;
}

interface StagedImage {
  config: ImageConfig;
  id: Digest;
  manifest: Descriptor;
  references: string[];
  layers: StagedLayer[];
}

/**
 * One load or import: images are read, checked and unpacked in the workspace, then all of them are moved into the
 * store under its lock, or none.
 */
export class Transaction {
  readonly #images: StagedImage[] = [];
  /** Blobs by digest, and unpacked layers by name, that wait in the workspace. */
  readonly #blobs = new Map<Digest, string>();
  readonly #directories = new Map<string, string>();
  readonly #layers = new Map<string, StagedLayer>();
  /** Which blobs unpack to which layers. */
  #pairs: Set<string> | undefined;
  #serial = 0;

  constructor(
    readonly layout: Layout,
    readonly workspace: Workspace,
    readonly options: {
      onProgress?: ProgressListener | undefined;
      signal?: AbortSignal | undefined;
    },
  ) {}

  /** Reads an image of a source. `owned`: its files may be moved. */
  async stageCandidate(candidate: Candidate, owned: boolean): Promise<void> {
    checkLayerCount(candidate.config);
    const layers: StagedLayer[] = [];
    for (const layer of candidate.layers) layers.push(await this.#stageFile(layer, owned));
    await this.stageImage(candidate, layers);
  }

  /** Adds an image whose layers have been read. */
  async stageImage(
    image: Pick<Candidate, 'config' | 'configBytes' | 'configDigest' | 'manifest' | 'references'>,
    layers: StagedLayer[],
  ): Promise<void> {
    const { config, configBytes, configDigest, references } = image;
    await this.#addBlob(configDigest, configBytes);
    let manifest: Descriptor;
    if (image.manifest) {
      const { mediaType, digest, size, annotations } = image.manifest.descriptor;
      manifest = { mediaType, digest, size, ...(annotations ? { annotations } : {}) };
      await this.#addBlob(digest, image.manifest.bytes);
    } else {
      const value: ImageManifest = {
        schemaVersion: 2,
        mediaType: MANIFEST_TYPE,
        config: { mediaType: CONFIG_TYPE, digest: configDigest, size: configBytes.length },
        layers: layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size })),
      };
      const bytes = Buffer.from(JSON.stringify(value));
      manifest = { mediaType: MANIFEST_TYPE, digest: sha256(bytes), size: bytes.length };
      await this.#addBlob(manifest.digest, bytes);
    }
    this.#images.push({ config, id: configDigest, manifest, references, layers });
  }

  /** Reads a layer from anywhere; what is unpacked already is only checked. */
  async stageLayer(
    layer: Pick<ReadLayerOptions, 'what' | 'source' | 'digest' | 'size' | 'diffId' | 'total'>,
    options: { copy: boolean; keep: Compression[]; mediaType?: string | undefined },
  ): Promise<StagedLayer> {
    const serial = this.#serial++;
    const copy = options.copy ? this.workspace.at(`blob-${serial}`) : undefined;
    const { diffId } = layer;
    const present =
      diffId !== undefined &&
      (this.#directories.has(layerName(diffId)) ||
        this.layout.readLayerRecord(diffId) !== undefined);
    const directory = present ? undefined : this.workspace.at(`layer-${serial}`);
    const subject = layer.digest ?? diffId;
    const result = await readLayer({
      ...layer,
      copy,
      keep: options.keep,
      directory,
      scratch: this.workspace.at(`scratch-${serial}`),
      subject: subject ? shortDigest(subject) : layer.what,
      ...this.options,
    });
    const blob = copy ?? (typeof layer.source === 'string' ? layer.source : undefined);
    if (blob !== undefined) this.#blobs.set(result.digest, blob);
    if (directory !== undefined) this.#directories.set(layerName(result.diffId), directory);
    const mediaType = LAYER_TYPE + suffixOf(layer.what, result.compression);
    const opaqueRoot = present
      ? (this.#opaqueRoot(result.diffId) ?? result.opaqueRoot)
      : result.opaqueRoot;
    const staged: StagedLayer = {
      diffId: result.diffId,
      diffSize: result.diffSize,
      digest: result.digest,
      size: result.size,
      mediaType: options.mediaType ?? mediaType,
      opaqueRoot,
    };
    this.#layers.set(`${blob ?? ''}\n${staged.diffId}`, staged);
    return staged;
  }

  /** A layer that the store has, unpacked and as a blob, and knows to be the same from another image. */
  findLayer(
    layer: Pick<StagedLayer, 'diffId' | 'digest' | 'size' | 'mediaType'>,
  ): StagedLayer | undefined {
    const record = this.layout.readLayerRecord(layer.diffId);
    if (!record || !existsSync(this.layout.blobPath(layer.digest))) return undefined;
    this.#pairs ??= new Set(
      this.layout
        .readIndex()
        .manifests.flatMap(({ digest }) => this.layout.readImageRecord(digest)?.layers ?? [])
        .map(({ blob, blobSize, diffId }) => `${blob} ${blobSize} ${diffId}`),
    );
    if (!this.#pairs.has(`${layer.digest} ${layer.size} ${layer.diffId}`)) return undefined;
    return { ...layer, diffSize: record.size, opaqueRoot: record.opaqueRoot };
  }

  /**
   * Moves one layer into the store, before its image is whole. That it is not swept away as one that nobody needs is
   * up to the caller.
   */
  async keepLayer(layer: StagedLayer): Promise<void> {
    const { signal } = this.options;
    await runTool('sync', ['--file-system', this.workspace.path], { signal });
    const held = await lock(this.layout.lockFile, signal);
    try {
      await this.#placeLayer(layer);
      await this.#placeBlob(layer.digest);
      await syncDirectory(this.layout.blobs);
      await syncDirectory(this.layout.layers);
    } finally {
      await held.release();
    }
  }

  /** Moves everything into the store. Nothing of it can be seen before, and all of it after. */
  async commit(): Promise<void> {
    const { signal, onProgress } = this.options;
    const progress = new ProgressStep(onProgress, 'sync', this.layout.root);
    // One syncfs for tens of thousands of files.
    await runTool('sync', ['--file-system', this.workspace.path], { signal });
    const held = await lock(this.layout.lockFile, signal);
    try {
      await this.#restoreRemoved();
      for (const layer of this.#allLayers()) await this.#placeLayer(layer);
      for (const digest of [...this.#blobs.keys()]) await this.#placeBlob(digest);
      await syncDirectory(this.layout.blobs);
      await syncDirectory(this.layout.layers);
      for (const image of this.#images) {
        const file = this.layout.imageRecordPath(image.manifest.digest);
        await this.layout.writeFile(file, encodeRecord(recordOf(image)), this.#temporary());
      }
      const { manifests: before } = this.layout.readIndex();
      const manifests = this.#images.reduce(withImage, before);
      await this.layout.writeIndex(manifests, this.#temporary());
    } catch (error) {
      await sweep(this.layout, this.workspace).catch(() => undefined); // the first error counts
      throw toImageError(error, 'ERR_IMAGE_STORE', `cannot write to the image store`);
    } finally {
      await held.release();
    }
    progress.finish();
  }

  async #stageFile(layer: CandidateLayer, owned: boolean): Promise<StagedLayer> {
    const known = this.#layers.get(`${layer.file}\n${layer.diffId}`);
    if (known) return known;
    const { file: source, fileSize: total, digest, size, diffId, mediaType } = layer;
    const what = `the layer ${digest ?? diffId}`;
    const staged = await this.stageLayer(
      { what, source, total, digest, size, diffId },
      { copy: !owned, keep: ANY_COMPRESSION, mediaType },
    );
    this.#layers.set(`${source}\n${diffId}`, staged);
    return staged;
  }

  #opaqueRoot(diffId: Digest): boolean | undefined {
    for (const layer of this.#layers.values()) {
      if (layer.diffId === diffId) return layer.opaqueRoot;
    }
    return this.layout.readLayerRecord(diffId)?.opaqueRoot;
  }

  async #addBlob(digest: Digest, bytes: Uint8Array): Promise<void> {
    if (this.#blobs.has(digest)) return;
    const file = this.workspace.at(`blob-${this.#serial++}`);
    await fs.writeFile(file, bytes, { mode: 0o600, flush: true });
    this.#blobs.set(digest, file);
  }

  #allLayers(): StagedLayer[] {
    return this.#images.flatMap((image) => image.layers);
  }

  /** A layer that was there when it was looked for may have been removed since; now nobody can. */
  async #restoreRemoved(): Promise<void> {
    for (const { diffId, digest, size } of this.#allLayers()) {
      const name = layerName(diffId);
      if (this.#directories.has(name) || this.layout.readLayerRecord(diffId)) continue;
      const directory = this.workspace.at(`layer-${this.#serial++}`);
      const staged = this.#blobs.get(digest);
      await readLayer({
        what: `the layer ${digest}`,
        source: staged && existsSync(staged) ? staged : this.layout.blobPath(digest),
        digest,
        size,
        diffId,
        keep: ANY_COMPRESSION,
        directory,
        scratch: this.workspace.at(`scratch-${this.#serial++}`),
        subject: shortDigest(digest),
        ...this.options,
      });
      await runTool('sync', ['--file-system', directory]);
      this.#directories.set(name, directory);
    }
  }

  async #placeLayer(layer: StagedLayer): Promise<void> {
    const { diffId, diffSize: size, opaqueRoot } = layer;
    const name = layerName(diffId);
    const from = this.#directories.get(name);
    if (from === undefined || this.layout.readLayerRecord(diffId)) return;
    this.#directories.delete(name);
    const target = this.layout.layerPath(name);
    if (existsSync(target)) {
      // Left by a process that died between the rename and the record.
      await fs.rename(target, this.workspace.at(`old-${this.#serial++}`));
    }
    await fs.rename(from, target);
    const record = encodeRecord({ diffId, size, opaqueRoot });
    await this.layout.writeFile(this.layout.layerRecordPath(name), record, this.#temporary());
  }

  async #placeBlob(digest: Digest): Promise<void> {
    const file = this.#blobs.get(digest);
    const target = this.layout.blobPath(digest);
    if (file === undefined || existsSync(target)) return;
    await fs.chmod(file, 0o600);
    await fs.rename(file, target);
    this.#blobs.delete(digest);
  }

  #temporary(): string {
    return path.join(this.workspace.path, `file-${this.#serial++}`);
  }
}

/** @throws ImageError ERR_IMAGE_CONFIG, ERR_IMAGE_TOO_MANY_LAYERS */
export function checkLayerCount(config: ImageConfig): void {
  const count = new Set(config.rootfs.diff_ids).size;
  if (count === 0) {
    const message =
      'the image has no layers (/rootfs/diff_ids is empty), so there is nothing to run';
    throw new ImageError('ERR_IMAGE_CONFIG', message, { field: '/rootfs/diff_ids' });
  }
  if (count > MAX_LAYERS) {
    throw new ImageError(
      'ERR_IMAGE_TOO_MANY_LAYERS',
      `the image has ${count} layers, the limit is ${MAX_LAYERS}; squash it`,
    );
  }
}

/** What the store remembers of an image, and which of its layers are mounted. */
function recordOf(image: {
  config: ImageConfig;
  id: Digest;
  manifest: Pick<Descriptor, 'digest'>;
  layers: StagedLayer[];
}): Omit<ImageRecord, 'version'> {
  const { config, id, manifest, layers } = image;
  const mounts: number[] = [];
  const seen = new Set<Digest>();
  for (let i = layers.length - 1; i >= 0; i--) {
    const layer = layers[i];
    if (!layer || seen.has(layer.diffId)) continue;
    seen.add(layer.diffId);
    mounts.unshift(i);
    if (layer.opaqueRoot) break;
  }
  return {
    id,
    digest: manifest.digest,
    size: layers.reduce((sum, layer) => sum + layer.diffSize, 0),
    config,
    layers: layers.map(({ diffId, digest, size, mediaType }) => ({
      name: layerName(diffId),
      diffId,
      blob: digest,
      blobSize: size,
      mediaType,
    })),
    mounts,
  };
}

function suffixOf(what: string, compression: Compression): string {
  if (compression === 'none') return '';
  if (compression === 'gzip' || compression === 'zstd') return `+${compression}`;
  throw new ImageError(
    'ERR_LAYER_FORMAT',
    `${what} is compressed by ${compression}, which image layers are not; compress it by gzip or zstd`,
  );
}
