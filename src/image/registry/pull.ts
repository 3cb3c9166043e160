/** ImageStore.pull */
import { existsSync, statSync } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';

import pLimit from 'p-limit';

import { REF_NAME, REPOSITORY_DIGEST } from '../annotations.js';
import { CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES } from '../candidates.js';
import { familiar, notFound, type Catalog } from '../catalog.js';
import { hexOf, shortDigest } from '../digest.js';
import { ImageError } from '../errors.js';
import { parseConfig, parseIndex, parseManifest } from '../json.js';
import { lock } from '../lock.js';
import { change } from '../operations.js';
import { ProgressStep } from '../progress.js';
import { lockPull, pullDirectory, writePull } from '../pulls.js';
import { formatReference, parseReference, type Reference } from '../reference.js';
import { sweep } from '../sweep.js';
import { ANY_COMPRESSION, checkLayerCount, Transaction, type StagedLayer } from '../transaction.js';
import type {
  Descriptor,
  Digest,
  ImageConfig,
  ImageManifest,
  PulledImage,
  RegistryOptions,
} from '../types.js';
import type { Workspace } from '../workspace.js';
import { downloadBlob } from './download.js';
import { RegistryError } from './errors.js';
import { Repository, type FetchedManifest } from './repository.js';
import { endpointsOf } from './settings.js';

/** Layers that are downloaded and unpacked at the same time: docker's number. */
const PARALLEL_LAYERS = 3;
const CONFIG_LIMIT = 8 << 20;
const MAX_INDEX_DEPTH = 4;

interface PullOptions extends RegistryOptions {
  /** Its signal. */
  signal: AbortSignal;
  /** Aborts what is under way when one part of it fails. */
  aborter: AbortController;
}

/** What a registry has under a name. */
interface Offer {
  repository: Repository;
  /** Of what the name stands for: an index, or the manifest itself. */
  digest: Digest;
  descriptor: Descriptor;
  bytes: Buffer;
  manifest: ImageManifest;
}

export async function pullImage(
  catalog: Catalog,
  text: string,
  options: RegistryOptions,
): Promise<PulledImage> {
  const reference = parseReference(text);
  // The mirrors, then the registry itself; what one has brought, the next need not bring again.
  for (const endpoint of endpointsOf(reference.domain)) {
    const aborter = new AbortController();
    const signal = AbortSignal.any([aborter.signal, ...(options.signal ? [options.signal] : [])]);
    const repository = new Repository(endpoint, reference.path, 'pull', { ...options, signal });
    try {
      const offer = await askFor(repository, reference);
      new ProgressStep(options.onProgress, 'resolve', formatReference(reference)).finish();
      return await takeOffer(catalog, reference, offer, { ...options, signal, aborter });
    } catch (error) {
      const next = endpoint.mirror && isInterruption(error);
      if (!next || options.signal?.aborted) throw wording(error, reference);
    } finally {
      await repository.close();
    }
  }
  throw new Error('unreachable: a registry is its own last endpoint');
}

async function askFor(repository: Repository, reference: Reference): Promise<Offer> {
  const name = familiar(formatReference(reference));
  const first = await repository.manifest(reference.digest ?? reference.tag ?? 'latest', name);
  const found = await pickManifest(repository, first, name, 0);
  const { digest, mediaType, bytes } = found;
  const descriptor = { mediaType, digest, size: bytes.length };
  const manifest = parseManifest(`the manifest ${digest} of ${name}`, bytes);
  const { config, artifactType } = manifest;
  if (artifactType !== undefined || !CONFIG_TYPES.includes(config.mediaType)) {
    throw new ImageError(
      'ERR_IMAGE_PLATFORM',
      `${name} is no container image, but ${artifactType ?? config.mediaType}`,
    );
  }
  return { repository, digest: first.digest, descriptor, bytes, manifest };
}

/** The manifest for this platform. */
async function pickManifest(
  repository: Repository,
  found: FetchedManifest,
  name: string,
  depth: number,
): Promise<FetchedManifest> {
  if (MANIFEST_TYPES.includes(found.mediaType)) return found;
  if (!INDEX_TYPES.includes(found.mediaType) || depth >= MAX_INDEX_DEPTH) {
    throw new ImageError(
      'ERR_IMAGE_MANIFEST',
      `the manifest for ${name} is of a type that is not supported: ${JSON.stringify(found.mediaType)}; docker's schema 1 images must be pushed anew`,
    );
  }
  const index = parseIndex(`the index ${found.digest} of ${name}`, found.bytes);
  const ours = index.manifests.filter(
    ({ platform: p, artifactType }) =>
      artifactType === undefined && (!p || (p.os === 'linux' && p.architecture === 'amd64')),
  );
  // One for every such machine, before one that wants a newer processor.
  const child = ours.find(({ platform }) => platform && !platform.variant) ?? ours[0];
  if (!child) {
    const others = index.manifests.flatMap(({ platform: p }) =>
      p && p.os !== 'unknown' ? [`${p.os}/${p.architecture}`] : [],
    );
    throw new ImageError(
      'ERR_IMAGE_PLATFORM',
      `no matching manifest for linux/amd64 in the manifest list entries of ${name} (it has ${[...new Set(others)].join(', ') || 'none'})`,
    );
  }
  const fetched = await repository.manifest(child.digest, name);
  return pickManifest(repository, { ...fetched, mediaType: child.mediaType }, name, depth + 1);
}

async function takeOffer(
  catalog: Catalog,
  reference: Reference,
  offer: Offer,
  options: PullOptions,
): Promise<PulledImage> {
  const { tag: _tag, ...byDigest } = reference;
  const name = formatReference(reference.digest === undefined ? reference : byDigest);
  const manifest = offer.descriptor.digest;
  const isDone = (): boolean =>
    entryOf(catalog, name) === `${manifest} ${offer.digest}` &&
    catalog.layout.readImageRecord(manifest) !== undefined;
  const changed = !isDone();
  if (changed) {
    await change(catalog, async (workspace) => {
      const held = await lockPull(catalog.layout, manifest, options.signal, () =>
        new ProgressStep(options.onProgress, 'wait', name).finish(),
      );
      try {
        if (!isDone()) await new Pull(catalog, offer, name, workspace, options).run();
      } finally {
        await held.release();
      }
    });
  }
  const image = (await catalog.list()).find(({ id }) => id === offer.manifest.config.digest);
  if (!image) throw notFound(name); // someone has removed it at once
  return { image, reference: name, digest: offer.digest, changed };
}

/** What the store has under a name, as text to compare. */
function entryOf(catalog: Catalog, name: string): string | undefined {
  const entry = catalog.layout
    .readIndex()
    .manifests.find(({ annotations }) => annotations?.[REF_NAME] === name);
  return entry && `${entry.digest} ${entry.annotations?.[REPOSITORY_DIGEST] ?? ''}`;
}

class Pull {
  readonly #transaction: Transaction;
  readonly #directory: string;

  constructor(
    readonly catalog: Catalog,
    readonly offer: Offer,
    readonly name: string,
    readonly workspace: Workspace,
    readonly options: PullOptions,
  ) {
    this.#transaction = new Transaction(catalog.layout, workspace, options);
    this.#directory = pullDirectory(catalog.layout, offer.descriptor.digest);
  }

  async run(): Promise<void> {
    const { manifest, repository, descriptor, bytes, digest } = this.offer;
    try {
      await fs.mkdir(this.#directory, { recursive: true, mode: 0o700 });
      const configBytes = await this.#fetchConfig();
      const config = parseConfig(`the image config ${manifest.config.digest}`, configBytes);
      checkConfig(config, manifest, repository.name);
      checkLayerCount(config);
      await this.#writeRecord(config.rootfs.diff_ids);
      const layers = await this.#fetchLayers(config);
      await this.#transaction.stageImage(
        {
          config,
          configBytes,
          configDigest: manifest.config.digest,
          references: [this.name],
          manifest: {
            value: manifest,
            bytes,
            descriptor: { ...descriptor, annotations: { [REPOSITORY_DIGEST]: digest } },
          },
        },
        layers,
      );
      await this.#transaction.commit();
      await fs.rename(this.#directory, this.workspace.at('pulled'));
    } catch (error) {
      // What an interrupted pull has verified will do for the next; of an image that is wrong, nothing is kept.
      if (!isInterruption(error)) await this.#forget();
      throw error;
    }
  }

  async #writeRecord(diffIds: Digest[]): Promise<void> {
    const { config, layers } = this.offer.manifest;
    const blobs = [config.digest, ...layers.map(({ digest }) => digest)];
    const { layout } = this.catalog;
    // Under the store's lock: a sweep has either ended, or will see it.
    const held = await lock(layout.lockFile, this.options.signal);
    try {
      await writePull(
        layout,
        this.offer.descriptor.digest,
        { reference: this.name, blobs, diffIds },
        this.workspace.at('pull.json'),
      );
    } finally {
      await held.release();
    }
  }

  async #forget(): Promise<void> {
    const { layout } = this.catalog;
    const held = await lock(layout.lockFile);
    try {
      await fs.rename(this.#directory, this.workspace.at('forgotten'));
      await sweep(layout, this.workspace);
    } catch {
      // The first error counts; what is left goes with the next sweep, or after some days.
    } finally {
      await held.release();
    }
  }

  async #fetchConfig(): Promise<Buffer> {
    const { config } = this.offer.manifest;
    const { layout } = this.catalog;
    if (config.size > CONFIG_LIMIT) {
      throw new ImageError(
        'ERR_IMAGE_CONFIG',
        `the image config ${config.digest} has ${config.size} bytes, the limit is ${CONFIG_LIMIT}`,
      );
    }
    const there = statSync(layout.blobPath(config.digest), { throwIfNoEntry: false });
    if (there?.size === config.size) return this.catalog.readBlob(config.digest);
    const file = path.join(this.#directory, hexOf(config.digest));
    await downloadBlob(this.offer.repository, config, file, () => undefined);
    return fs.readFile(file);
  }

  async #fetchLayers(config: ImageConfig): Promise<StagedLayer[]> {
    const limit = pLimit(PARALLEL_LAYERS);
    const known = new Map<string, Promise<StagedLayer>>();
    const work = this.offer.manifest.layers.map((layer, i) => {
      const diffId = config.rootfs.diff_ids[i] as Digest; // checkConfig has counted them
      const key = `${layer.digest} ${diffId}`;
      const promise = known.get(key) ?? limit(() => this.#fetchLayer(layer, diffId));
      known.set(key, promise);
      return promise;
    });
    const failures: unknown[] = [];
    const settled = work.map((promise) =>
      promise.catch((error: unknown) => {
        failures.push(error);
        this.options.aborter.abort();
      }),
    );
    await Promise.all(settled);
    if (failures.length > 0) throw failures[0];
    return Promise.all(work);
  }

  async #fetchLayer(layer: Descriptor, diffId: Digest): Promise<StagedLayer> {
    const { digest, size, mediaType } = layer;
    this.options.signal.throwIfAborted(); // another layer has failed while this one had to wait
    const { layout } = this.catalog;
    const subject = shortDigest(digest);
    const { onProgress } = this.options;
    const there = this.#transaction.findLayer({ diffId, digest, size, mediaType });
    if (there) {
      new ProgressStep(onProgress, 'exists', subject).finish();
      return there;
    }
    let source = layout.blobPath(digest);
    if (!existsSync(source)) {
      source = path.join(this.#directory, hexOf(digest));
      const progress = new ProgressStep(onProgress, 'download', subject, size);
      await downloadBlob(this.offer.repository, layer, source, (done) => progress.update(done));
      progress.finish();
    }
    const staged = await this.#transaction.stageLayer(
      { what: `the layer ${digest}`, source, digest, size, diffId, total: size },
      { copy: false, keep: ANY_COMPRESSION, mediaType },
    );
    await this.#transaction.keepLayer(staged);
    return staged;
  }
}

/** docker's sentence for what is not there, or not for us: a registry that keeps names secret does not say which. */
function wording(error: unknown, { domain, path: repository }: Reference): unknown {
  const codes = ['ERR_REGISTRY_DENIED', 'ERR_REGISTRY_UNAUTHORIZED'];
  if (!(error instanceof ImageError) || !codes.includes(error.code)) return error;
  const name = familiar(`${domain}/${repository}:x`).replace(/:x$/, '');
  return new ImageError(
    error.code,
    `pull access denied for ${name}, repository does not exist or may require "clearvm login": ${error.message}`,
    { cause: error },
  );
}

function checkConfig(config: ImageConfig, manifest: ImageManifest, name: string): void {
  if (config.os !== 'linux' || config.architecture !== 'amd64') {
    throw new ImageError(
      'ERR_IMAGE_PLATFORM',
      `${name} has an image for ${config.os}/${config.architecture}, not for linux/amd64; get the one for this platform`,
    );
  }
  const [count, promised] = [manifest.layers.length, config.rootfs.diff_ids.length];
  if (count === promised) return;
  throw new ImageError(
    'ERR_IMAGE_CONFIG',
    `the image of ${name} has ${count} layers, its config lists ${promised} (/rootfs/diff_ids)`,
    { field: '/rootfs/diff_ids' },
  );
}

/** Whether the same pull may succeed at another time: it was the transfer that failed, not the image. */
function isInterruption(error: unknown): boolean {
  if (error instanceof RegistryError) return true;
  const codes = ['ERR_REGISTRY_CONFIG', 'ERR_REGISTRY_CREDENTIALS', 'ERR_IMAGE_ABORTED'];
  return error instanceof ImageError && codes.includes(error.code);
}
