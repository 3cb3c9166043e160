/** ImageStore.push */
import { createReadStream } from 'node:fs';

import pLimit from 'p-limit';

import { REF_NAME, REPOSITORY_DIGEST } from '../annotations.js';
import { familiar, type Catalog } from '../catalog.js';
import { checkDigest, sha256, shortDigest } from '../digest.js';
import { ImageError } from '../errors.js';
import { parseManifest } from '../json.js';
import { digestOfFile } from '../layer.js';
import { updateIndex } from '../operations.js';
import { ProgressStep } from '../progress.js';
import { formatReference, parseReference, type Reference } from '../reference.js';
import type { Descriptor, Digest, PushedImage, RegistryOptions } from '../types.js';
import { RegistryError } from './errors.js';
import { Repository } from './repository.js';
import { headerOf } from './responses.js';
import { withRetries } from './retry.js';
import { endpointsOf } from './settings.js';
import { uploadBlob } from './upload.js';

/** Layers that are uploaded at the same time: docker's number. */
const PARALLEL_LAYERS = 5;

export async function pushImage(
  catalog: Catalog,
  text: string,
  options: RegistryOptions,
): Promise<PushedImage> {
  const reference = parseReference(text);
  const name = formatReference(reference);
  if (reference.tag === undefined) {
    throw new ImageError(
      'ERR_IMAGE_REFERENCE',
      `${JSON.stringify(text)} cannot be pushed: a push is to a tag; use repository:tag`,
    );
  }
  const entry = catalog.layout
    .readIndex()
    .manifests.find(({ annotations }) => annotations?.[REF_NAME] === name);
  if (!entry) {
    throw new ImageError(
      'ERR_IMAGE_NOT_FOUND',
      `An image does not exist locally with the tag: ${familiar(name)}; give it the name with "clearvm tag"`,
    );
  }
  const aborter = new AbortController();
  const signal = AbortSignal.any([aborter.signal, ...(options.signal ? [options.signal] : [])]);
  const endpoint = endpointsOf(reference.domain).at(-1);
  if (!endpoint) throw new Error('unreachable: a registry is its own last endpoint');
  const repository = new Repository(endpoint, reference.path, 'pull,push', { ...options, signal });
  try {
    const bytes = await catalog.readBlob(entry.digest);
    const manifest = parseManifest(`the manifest ${entry.digest}`, bytes);
    const push = new Push(catalog, repository, reference, options);
    const limit = pLimit(PARALLEL_LAYERS);
    const layers = new Map(manifest.layers.map((layer) => [layer.digest, layer]));
    const failures: unknown[] = [];
    await Promise.all(
      [...layers.values()].map((layer) =>
        limit(async () => {
          if (failures.length === 0) await push.sendBlob(layer, true);
        }).catch((error: unknown) => {
          failures.push(error);
          aborter.abort();
        }),
      ),
    );
    if (failures.length > 0) throw failures[0];
    await push.sendBlob(manifest.config, false);
    await push.sendManifest(reference.tag, entry, bytes);
    await rememberDigest(catalog, name, entry.digest);
    return { reference: name, digest: entry.digest, size: bytes.length };
  } finally {
    await repository.close();
  }
}

class Push {
  readonly #sources: Map<Digest, string>;

  constructor(
    readonly catalog: Catalog,
    readonly repository: Repository,
    reference: Reference,
    readonly options: RegistryOptions,
  ) {
    this.#sources = otherRepositories(catalog, reference);
  }

  /** `shown`: among the progress, as the layers are. */
  async sendBlob(blob: Descriptor, shown: boolean): Promise<void> {
    const { digest, size } = blob;
    const subject = shortDigest(digest);
    const onProgress = shown ? this.options.onProgress : undefined;
    const file = this.catalog.layout.blobPath(digest);
    // What is damaged here is not for others to find out.
    const actual = await digestOfFile(file).catch((cause: unknown) => {
      throw new ImageError(
        'ERR_IMAGE_STORE',
        `cannot read the blob ${file}: ${(cause as Error).message}; pull or load the image again`,
        { cause },
      );
    });
    checkDigest(`the blob ${digest} of the store`, actual, { digest, size });
    const from = this.#sources.get(digest);
    if (from !== undefined) this.repository.addScope(`repository:${from}:pull`);
    const progress = new ProgressStep(onProgress, 'upload', subject, size);
    const { outcome } = await uploadBlob(
      this.repository,
      blob,
      (start, end) => createReadStream(file, { start, end: end - 1, highWaterMark: 1 << 20 }),
      { from, onBytes: (done) => progress.update(done) },
    );
    if (outcome === 'uploaded') progress.finish();
    else if (outcome === 'exists') new ProgressStep(onProgress, 'exists', subject).finish();
    else new ProgressStep(onProgress, 'mount', `${subject} from ${from ?? ''}`).finish();
  }

  async sendManifest(tag: string, { digest, mediaType }: Descriptor, bytes: Buffer): Promise<void> {
    const { repository } = this;
    checkDigest(
      `the manifest ${digest} of the store`,
      { digest: sha256(bytes), size: bytes.length },
      { digest },
    );
    await withRetries(async () => {
      const response = await repository.send(`manifests/${tag}`, {
        method: 'PUT',
        headers: { 'content-type': mediaType },
        body: () => bytes,
      });
      if (response.status !== 201) {
        throw await repository.refusal(response, `the push of ${repository.name}:${tag}`);
      }
      await response.body.dump();
      const there = headerOf(response, 'docker-content-digest');
      if (there !== undefined && there !== digest) {
        throw new RegistryError(
          'ERR_IMAGE_DIGEST_MISMATCH',
          `the registry took the manifest ${digest} of ${repository.name}:${tag} for ${there}`,
        );
      }
    }, repository.options);
  }
}

/** Blobs that other repositories of the same registry are known to have: to be mounted, not uploaded. */
function otherRepositories(catalog: Catalog, reference: Reference): Map<Digest, string> {
  const sources = new Map<Digest, string>();
  for (const entry of catalog.layout.readIndex().manifests) {
    const { [REF_NAME]: name, [REPOSITORY_DIGEST]: there } = entry.annotations ?? {};
    if (name === undefined || there === undefined) continue;
    const other = parseReference(name);
    if (other.domain !== reference.domain || other.path === reference.path) continue;
    for (const layer of catalog.layout.readImageRecord(entry.digest)?.layers ?? []) {
      sources.set(layer.blob, other.path);
    }
  }
  return sources;
}

/** Notes that the registry has the image, by this digest. */
async function rememberDigest(catalog: Catalog, name: string, digest: Digest): Promise<void> {
  await updateIndex(catalog, (manifests) =>
    manifests.map((entry) =>
      entry.annotations?.[REF_NAME] === name && entry.digest === digest
        ? { ...entry, annotations: { ...entry.annotations, [REPOSITORY_DIGEST]: digest } }
        : entry,
    ),
  );
}
