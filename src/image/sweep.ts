import fs from 'node:fs/promises';
import path from 'node:path';

import { hexOf, layerName } from './digest.js';
import { parseConfig, parseManifest } from './json.js';
import type { Layout } from './layout.js';
import type { Descriptor, Digest } from './types.js';
import type { Workspace } from './workspace.js';

/**
 * Deletes every blob, unpacked layer and record that no image of the index needs. The caller holds the store's lock;
 * layers are only moved into the workspace, so that the lock is not held while trees are deleted.
 *
 * When an image's manifest cannot be read, nothing is known of what it needs, and nothing is deleted.
 *
 * @returns how many blobs and layers are gone
 */
export async function sweep(
  layout: Layout,
  workspace: Workspace,
): Promise<{ blobs: number; layers: number }> {
  const blobs = new Set<string>();
  const layers = new Set<string>();
  const manifests = new Set<string>();
  for (const entry of layout.readIndex().manifests) {
    const needs = await needsOf(layout, entry);
    if (!needs) return { blobs: 0, layers: 0 };
    manifests.add(hexOf(entry.digest));
    for (const digest of needs.blobs) blobs.add(hexOf(digest));
    for (const diffId of needs.diffIds) layers.add(layerName(diffId));
  }
  const gone = { blobs: 0, layers: 0 };
  await removeOthers(layout.imageRecords, manifests, '.json');
  await removeOthers(layout.layerRecords, layers, '.json');
  gone.blobs = await removeOthers(layout.blobs, blobs, '');
  for (const name of await fs.readdir(layout.layers)) {
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

async function removeOthers(
  directory: string,
  keep: Set<string>,
  extension: string,
): Promise<number> {
  let removed = 0;
  for (const file of await fs.readdir(directory)) {
    if (keep.has(path.basename(file, extension))) continue;
    await fs.rm(path.join(directory, file), { force: true });
    removed++;
  }
  return removed;
}
