/** What ImageStore does with the images that it has, besides loading, pulling and removing them. */
import { existsSync, statSync } from 'node:fs';

import { REF_NAME, REPOSITORY_DIGEST } from './annotations.js';
import type { Catalog } from './catalog.js';
import { withImage } from './entries.js';
import { ImageError } from './errors.js';
import type { ImageRecord } from './layout.js';
import { parseName, removeImage, removePulls, updateIndex } from './operations.js';
import type {
  Descriptor,
  HistoryEntry,
  ImageUsage,
  PruneOptions,
  RemovedImages,
  RemoveOptions,
} from './types.js';

/** ImageStore.tag */
export async function tagImage(catalog: Catalog, source: string, target: string): Promise<void> {
  const name = parseName(target);
  await catalog.find(source); // before a directory is made for a store that is not there
  await updateIndex(catalog, async (manifests) => {
    const { entries } = await catalog.find(source);
    const [entry] = entries;
    const { [REPOSITORY_DIGEST]: there, ...annotations } = entry.annotations ?? {};
    const repository = repositoryOf(entry.annotations?.[REF_NAME]);
    const known = there !== undefined && repository === repositoryOf(name);
    const manifest: Descriptor = {
      ...entry,
      annotations: { ...annotations, ...(known ? { [REPOSITORY_DIGEST]: there } : {}) },
    };
    const id = await catalog.idOf(entry);
    return withImage(manifests, { id, manifest, references: [name] });
  });
}

function repositoryOf(reference = ''): string {
  return reference.replace(/(?:@[^@]*|:[^:/]*)$/, '');
}

/** ImageStore.history; newest first. */
export function historyOf(catalog: Catalog, record: ImageRecord): HistoryEntry[] {
  const sizes = record.layers.map(({ name }) => catalog.layout.layerSize(name));
  const { history, created } = record.config;
  const steps = history?.length
    ? history
    : sizes.map(() => ({ ...(created ? { created } : {}) }) as NonNullable<typeof history>[number]);
  let layer = 0;
  const entries = steps.map((step): HistoryEntry => {
    const size = step.empty_layer === true ? 0 : (sizes[layer++] ?? 0);
    return {
      ...(step.created ? { created: step.created } : {}),
      createdBy: step.created_by ?? '',
      comment: step.comment ?? '',
      size,
    };
  });
  const newest = entries.at(-1);
  if (newest) newest.id = record.id;
  return entries.reverse();
}

/** ImageStore.prune */
export async function pruneImages(
  catalog: Catalog,
  { all = false, filter, inUse }: PruneOptions,
): Promise<RemovedImages> {
  const total: RemovedImages = { untagged: [], deleted: [], blobs: 0, layers: 0, bytes: 0 };
  if (!existsSync(catalog.layout.root)) return total;
  const add = (removed: Partial<RemovedImages>): void => {
    total.untagged.push(...(removed.untagged ?? []));
    total.deleted.push(...(removed.deleted ?? []));
    for (const key of ['blobs', 'layers', 'bytes'] as const) total[key] += removed[key] ?? 0;
  };
  const used = new Set(await inUse?.());
  for (const image of await catalog.list()) {
    if (used.has(image.id) || (!all && image.names.length > 0)) continue;
    if (filter && !(await filter(image))) continue;
    const options: RemoveOptions = { ...(inUse ? { inUse } : {}) };
    try {
      for (const name of image.names.slice(0, -1)) add(await removeImage(catalog, name, options));
      add(await removeImage(catalog, image.names.at(-1) ?? image.id, options));
    } catch (error) {
      // Somebody else was faster, or has begun to use it.
      const codes = ['ERR_IMAGE_NOT_FOUND', 'ERR_IMAGE_IN_USE'];
      if (!(error instanceof ImageError) || !codes.includes(error.code)) throw error;
    }
  }
  add(await removePulls(catalog));
  return total;
}

/** ImageStore.usage */
export async function imageUsage(catalog: Catalog, inUse: Iterable<string>): Promise<ImageUsage> {
  const used = new Set(inUse);
  const { layout } = catalog;
  const sizes = new Map<string, number>();
  const needed = new Set<string>();
  const ids = new Set<string>();
  for (const entry of layout.readIndex().manifests) {
    const id = await catalog.idOf(entry);
    ids.add(id);
    const record = layout.readImageRecord(entry.digest);
    for (const { name, blob, blobSize } of record?.layers ?? []) {
      sizes.set(name, layout.layerSize(name));
      sizes.set(blob, blobSize);
      if (used.has(id)) needed.add(name).add(blob);
    }
    for (const digest of [entry.digest, id]) {
      const blob = catalog.layout.blobPath(digest as Descriptor['digest']);
      sizes.set(digest, statSync(blob, { throwIfNoEntry: false })?.size ?? 0);
      if (used.has(id)) needed.add(digest);
    }
  }
  const sum = (keys: Iterable<string>): number =>
    [...keys].reduce((total, key) => total + (sizes.get(key) ?? 0), 0);
  const bytes = sum(sizes.keys());
  return {
    images: ids.size,
    active: [...ids].filter((id) => used.has(id)).length,
    bytes,
    reclaimable: bytes - sum(needed),
  };
}
