import path from 'node:path';

import { REF_NAME } from './annotations.js';
import { readCandidates, type Candidate } from './candidates.js';
import { familiar, notFound, referencesOf, type Catalog } from './catalog.js';
import { applyChanges } from './changes.js';
import { sha256, shortDigest } from './digest.js';
import { ImageError, toImageError } from './errors.js';
import { parseConfig, parseManifest } from './json.js';
import { lock } from './lock.js';
import { dropPulls } from './pulls.js';
import { formatReference, parseReference } from './reference.js';
import { openSource, statSource } from './source.js';
import { sweep, type Swept } from './sweep.js';
import { LAYER_COMPRESSIONS, Transaction } from './transaction.js';
import type {
  Descriptor,
  Digest,
  ImageConfig,
  ImageSource,
  ImageSummary,
  ImportOptions,
  LoadOptions,
  ProgressListener,
  RemovedImages,
  RemoveOptions,
} from './types.js';
import { Workspace } from './workspace.js';

/** ImageStore.load */
export async function loadImages(
  catalog: Catalog,
  source: ImageSource,
  options: LoadOptions,
): Promise<ImageSummary[]> {
  const name = options.name === undefined ? undefined : parseName(options.name);
  return change(catalog, async (workspace) => {
    const { onProgress, signal } = options;
    const opened = await openSource(source, workspace, { onProgress, signal });
    const candidates = await readCandidates(opened);
    if (name !== undefined) {
      if (candidates.length !== 1) {
        throw new ImageError(
          'ERR_IMAGE_REFERENCE',
          `${opened.label} holds ${candidates.length} images, so they cannot all be called ${options.name ?? ''}; load it without a name`,
        );
      }
      for (const candidate of candidates) candidate.references = [name];
    }
    const transaction = new Transaction(catalog.layout, workspace, { onProgress, signal });
    for (const candidate of candidates) {
      await transaction.stageCandidate(candidate, opened.owned);
    }
    await transaction.commit();
    const ids = new Set(candidates.map((candidate) => candidate.configDigest));
    return (await catalog.list()).filter((image) => ids.has(image.id));
  });
}

/** ImageStore.import */
export async function importImage(
  catalog: Catalog,
  source: ImageSource,
  options: ImportOptions,
): Promise<ImageSummary> {
  const references = options.name === undefined ? [] : [parseName(options.name)];
  const runConfig = { ...applyChanges(options.changes ?? []), ...options.config };
  let label = 'the archive';
  let total: number | undefined;
  if (typeof source === 'string') {
    label = source;
    const found = await statSource(source);
    if (found.isDirectory()) {
      throw new ImageError(
        'ERR_IMAGE_SOURCE',
        `${source} is a directory, import takes a tar archive; make one with: tar --numeric-owner --xattrs -C ${source} -c .`,
      );
    }
    if (found.isFile()) total = found.size;
  }
  return change(catalog, async (workspace) => {
    const { onProgress, signal } = options;
    const transaction = new Transaction(catalog.layout, workspace, { onProgress, signal });
    const layer = await transaction.stageLayer(
      { what: label, source, total },
      { copy: true, keep: LAYER_COMPRESSIONS },
    );
    const created = new Date().toISOString();
    const comment =
      options.message ??
      `Imported from ${typeof source === 'string' ? path.basename(source) : '-'}`;
    const config: ImageConfig = {
      created,
      architecture: 'amd64',
      os: 'linux',
      config: runConfig,
      rootfs: { type: 'layers', diff_ids: [layer.diffId] },
      history: [{ created, comment }],
    };
    const configBytes = Buffer.from(JSON.stringify(config));
    parseConfig('the config of the new image', configBytes); // options.config is the caller's
    const configDigest = sha256(configBytes);
    await transaction.stageImage({ config, configBytes, configDigest, references }, [layer]);
    await transaction.commit();
    const image = (await catalog.list()).find(({ id }) => id === configDigest);
    if (!image) throw notFound(configDigest); // someone has removed it at once
    return image;
  });
}

/** ImageStore.remove */
export async function removeImage(
  catalog: Catalog,
  reference: string,
  options: RemoveOptions,
): Promise<RemovedImages> {
  await catalog.find(reference); // before a directory is made for a store that is not there
  return change(catalog, async (workspace) => {
    const held = await lock(catalog.layout.lockFile);
    try {
      const { entries, byId } = await catalog.find(reference);
      const id = await catalog.idOf(entries[0]);
      const index = catalog.layout.readIndex().manifests;
      const gone = new Set(entries.map((entry) => JSON.stringify(entry)));
      const kept = index.filter((entry) => !gone.has(JSON.stringify(entry)));
      const untagged = referencesOf(entries).map(familiar);
      if (byId && untagged.length > 1 && options.force !== true) {
        throw new ImageError(
          'ERR_IMAGE_IN_USE',
          `image ${shortDigest(id)} has several names (${untagged.join(', ')}); remove it by them, or by force`,
        );
      }
      const others = await Promise.all(kept.map((entry) => catalog.idOf(entry)));
      const deleted: Digest[] = [];
      if (!others.includes(id)) {
        const used = new Set(await options.inUse?.());
        if (!used.has(id)) {
          deleted.push(id);
        } else if (options.force === true && entries[0]) {
          const { [REF_NAME]: _name, ...annotations } = entries[0].annotations ?? {};
          kept.push({ ...entries[0], annotations });
        } else {
          throw inUseError(untagged[0] ?? shortDigest(id));
        }
      }
      await catalog.layout.writeIndex(kept, workspace.at('index'));
      // A container that was being made when nobody used the image says so before it looks whether the image is still
      // there: one of the two sees the other.
      if (deleted.length > 0 && new Set(await options.inUse?.()).has(id)) {
        await catalog.layout.writeIndex(index, workspace.at('index'));
        throw inUseError(untagged[0] ?? shortDigest(id));
      }
      const manifests = entries.map(({ digest }) => digest);
      await dropPulls(catalog.layout, workspace, (manifest) => manifests.includes(manifest));
      const swept = await sweep(catalog.layout, workspace);
      return { untagged, deleted, ...swept };
    } finally {
      await held.release();
    }
  });
}

function inUseError(name: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_IN_USE',
    `image ${name} is used by a container; remove that first`,
  );
}

/** Replaces the entries of the index, under the store's lock. */
export async function updateIndex(
  catalog: Catalog,
  update: (manifests: Descriptor[]) => Descriptor[] | Promise<Descriptor[]>,
): Promise<void> {
  await change(catalog, async (workspace) => {
    const held = await lock(catalog.layout.lockFile);
    try {
      const manifests = await update(catalog.layout.readIndex().manifests);
      await catalog.layout.writeIndex(manifests, workspace.at('index'));
    } finally {
      await held.release();
    }
  });
}

/** Removes what interrupted pulls have left. */
export async function removePulls(catalog: Catalog): Promise<Swept> {
  return change(catalog, async (workspace) => {
    const held = await lock(catalog.layout.lockFile);
    try {
      await dropPulls(catalog.layout, workspace, () => true);
      return await sweep(catalog.layout, workspace);
    } finally {
      await held.release();
    }
  });
}

/** Unpacks what is missing of an image from the store's own blobs, and writes its record anew. */
export async function restoreImage(
  catalog: Catalog,
  entry: Descriptor,
  onProgress: ProgressListener | undefined,
): Promise<void> {
  const manifestBytes = await catalog.readBlob(entry.digest);
  const manifest = parseManifest(`the manifest ${entry.digest}`, manifestBytes);
  const configBytes = await catalog.readBlob(manifest.config.digest);
  const config = parseConfig(`the image config ${manifest.config.digest}`, configBytes);
  const layers: Candidate['layers'] = [];
  for (const [i, { digest, size, mediaType }] of manifest.layers.entries()) {
    const diffId = config.rootfs.diff_ids[i];
    if (diffId === undefined) throw notFound(entry.digest);
    const file = catalog.layout.blobPath(digest);
    layers.push({ file, fileSize: size, diffId, digest, size, mediaType });
  }
  const candidate: Candidate = {
    references: [],
    config,
    configBytes,
    configDigest: manifest.config.digest,
    manifest: { value: manifest, bytes: manifestBytes, descriptor: entry },
    layers,
  };
  await change(catalog, async (workspace) => {
    const transaction = new Transaction(catalog.layout, workspace, { onProgress });
    await transaction.stageCandidate(candidate, true);
    await transaction.commit();
  });
}

/** Runs a change of the store in a workspace of its own, of which nothing is left afterwards. */
export async function change<T>(
  catalog: Catalog,
  work: (workspace: Workspace) => Promise<T>,
): Promise<T> {
  try {
    await catalog.layout.create();
    const workspace = await Workspace.open(catalog.layout.tmp);
    try {
      if (workspace.foundStale) await sweepAfterDeath(catalog, workspace);
      return await work(workspace);
    } finally {
      await workspace.close();
    }
  } catch (error) {
    throw toImageError(error, 'ERR_IMAGE_STORE', `the image store in ${catalog.layout.root} fails`);
  }
}

/** A process that died while it moved its work into place may have left layers and blobs that no image has. */
async function sweepAfterDeath(catalog: Catalog, workspace: Workspace): Promise<void> {
  const held = await lock(catalog.layout.lockFile);
  try {
    await dropPulls(catalog.layout, workspace);
    await sweep(catalog.layout, workspace);
  } finally {
    await held.release();
  }
}

/** A name that an image can be given, normalised. */
export function parseName(text: string): string {
  const reference = parseReference(text);
  if (reference.digest !== undefined) {
    throw new ImageError(
      'ERR_IMAGE_REFERENCE',
      `${JSON.stringify(text)} cannot be given to an image: a digest comes from content; use repository:tag`,
    );
  }
  return formatReference(reference);
}
