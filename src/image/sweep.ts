import fs from 'node:fs/promises';
import path from 'node:path';

import { hexOf, layerName } from './digest.js';
import { parseConfig, parseManifest } from './json.js';
import type { Layout } from './layout.js';
import { readPulls } from './pulls.js';
import type { Descriptor, Digest } from './types.js';
import type { Workspace } from './workspace.js';

/** What a sweep took away; `bytes`: of the blobs, and of the layers' tars. */
export interface Swept {
  blobs: number;
  layers: number;
  bytes: number;
}

/**
 * Deletes every blob, unpacked layer and record that no image of the index, and no pull, needs. The caller holds the store's lock;
 * layers are only moved into the workspace, so that the lock is not held while trees are deleted.
 *
 * When an image's manifest cannot be read, nothing is known of what it needs, and nothing is deleted.
 *
 * @returns how many blobs and layers are gone, and the bytes that they took
 */
export async function sweep(layout: Layout, workspace: Workspace): Promise<Swept> {
  const blobs = new Set<string>();
  const layers = new Set<string>();
  const manifests = new Set<string>();
  for (const entry of layout.readIndex().manifests) {
    const needs = await needsOf(layout, entry);
    if (!needs) return { blobs: 0, layers: 0, bytes: 0 };
    manifests.add(hexOf(entry.digest));
    for (const digest of needs.blobs) blobs.add(hexOf(digest));
    for (const diffId of needs.diffIds) layers.add(layerName(diffId));
  }
  for (const pull of await readPulls(layout)) {
    for (const digest of pull.blobs) blobs.add(hexOf(digest));
    for (const diffId of pull.diffIds) layers.add(layerName(diffId));
  }
  await removeOthers(layout.imageRecords, manifests, '.json');
  const unpacked = await fs.readdir(layout.layers);
  const sizes = unpacked.map((name) => (layers.has(name) ? 0 : layout.layerSize(name)));
  await removeOthers(layout.layerRecords, layers, '.json');
  const removed = await removeOthers(layout.blobs, blobs, '');
  const gone = {
    blobs: removed.length,
    layers: 0,
    bytes: [...sizes, ...removed].reduce((sum, size) => sum + size, 0),
  };
  for (const name of unpacked) {
    if (layers.has(name)) continue;
    await fs.rename(layout.layerPath(name), workspace.at(`swept-${name}`));
    gone.layers++;
  }
  return gone;
}

async function needsOf(
  layout: Layout,
  entry: Descriptor,
): Promise<{ blobs: Digest[]; diffIds: Digest[] } | undefined> {
  try {
    const manifestBytes = await fs.readFile(layout.blobPath(entry.digest));
    const manifest = parseManifest(entry.digest, manifestBytes);
    const configBytes = await fs.readFile(layout.blobPath(manifest.config.digest));
    const config = parseConfig(manifest.config.digest, configBytes);
    const layers = manifest.layers.map((layer) => layer.digest);
    return {
      blobs: [entry.digest, manifest.config.digest, ...layers],
      diffIds: config.rootfs.diff_ids,
    };
  } catch {
    return undefined;
  }
}

/** Returns the sizes of what is gone. */
async function removeOthers(
  directory: string,
  keep: Set<string>,
  extension: string,
): Promise<number[]> {
  const sizes: number[] = [];
  for (const name of await fs.readdir(directory)) {
    if (keep.has(path.basename(name, extension))) continue;
    const file = path.join(directory, name);
    sizes.push((await fs.stat(file)).size);
    await fs.rm(file, { force: true });
  }
  return sizes;
}
