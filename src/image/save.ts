import fs from 'node:fs/promises';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { execa } from 'execa';

import { CONTAINERD_NAME, REF_NAME } from './annotations.js';
import { familiar, type Catalog } from './catalog.js';
import { hexOf } from './digest.js';
import { ImageError, toImageError } from './errors.js';
import { parseManifest } from './json.js';
import { change } from './operations.js';
import { toolEnvironment } from './tools.js';
import type { Descriptor, SaveOptions } from './types.js';
import type { Workspace } from './workspace.js';

/**
 * ImageStore.save: an archive that is an OCI layout and, by its manifest.json, one of docker's as well: what docker save
 * makes since version 25, and what every `load` reads.
 */
export async function saveImages(
  catalog: Catalog,
  references: string[],
  target: string | Writable,
  { signal }: SaveOptions,
): Promise<void> {
  const chosen: Descriptor[] = [];
  for (const text of references) {
    const { entries, byId } = await catalog.find(text);
    // By its id, an image is saved without names, as docker does it.
    const [{ annotations: _names, ...nameless }] = entries;
    chosen.push(...(byId ? [nameless] : entries));
  }
  await change(catalog, async (workspace) => {
    await gather(catalog, chosen, workspace);
    try {
      signal?.throwIfAborted();
      // Opened here: a stream that opens its file by itself may do so after the file was removed below.
      const output =
        typeof target === 'string'
          ? (await fs.open(`${target}.part`, 'w')).createWriteStream()
          : target;
      const args = [
        '--create',
        '--file=-',
        '--format=pax',
        '--sort=name',
        '--owner=0',
        '--group=0',
      ];
      args.push('--numeric-owner', '--mode=u=rwX,go=rX', '-C', workspace.at('save'), '.');
      const tar = execa('tar', args, {
        extendEnv: false,
        env: toolEnvironment(),
        stdin: 'ignore',
        buffer: { stdout: false, stderr: true },
        ...(signal ? { cancelSignal: signal } : {}),
      });
      const end = typeof target === 'string' || target !== process.stdout;
      await Promise.all([tar, pipeline(tar.stdout, output, { end })]);
      if (typeof target === 'string') await fs.rename(`${target}.part`, target);
    } catch (error) {
      if (typeof target === 'string') await fs.rm(`${target}.part`, { force: true });
      const what = typeof target === 'string' ? target : 'the archive';
      if (signal?.aborted) throw new ImageError('ERR_IMAGE_ABORTED', `${what}: aborted`);
      throw toImageError(error, 'ERR_IMAGE_SOURCE', `cannot write ${what}`);
    }
  });
}

/** Puts the layout together, of links to the store's blobs: they stay for as long as this takes, whoever removes them. */
async function gather(
  catalog: Catalog,
  entries: Descriptor[],
  workspace: Workspace,
): Promise<void> {
  const blobs = workspace.at('save', 'blobs', 'sha256');
  await fs.mkdir(blobs, { recursive: true });
  const linked = new Set<string>();
  const link = async ({ digest }: Pick<Descriptor, 'digest'>): Promise<void> => {
    if (linked.has(digest)) return;
    linked.add(digest);
    await fs.link(catalog.layout.blobPath(digest), `${blobs}/${hexOf(digest)}`);
  };
  const archive = new Map<string, { Config: string; RepoTags: string[]; Layers: string[] }>();
  const manifests: Descriptor[] = [];
  for (const { mediaType, digest, size, annotations } of entries) {
    const manifest = parseManifest(digest, await catalog.readBlob(digest));
    for (const blob of [{ digest }, manifest.config, ...manifest.layers]) await link(blob);
    const name = annotations?.[REF_NAME];
    const tag = name === undefined ? undefined : /:([^:/@]+)$/.exec(name)?.[1];
    manifests.push({
      mediaType,
      digest,
      size,
      platform: { architecture: 'amd64', os: 'linux' },
      ...(name !== undefined && tag !== undefined && !name.includes('@')
        ? { annotations: { [CONTAINERD_NAME]: name, [REF_NAME]: tag } }
        : {}),
    });
    const file = (blob: Pick<Descriptor, 'digest'>) => `blobs/sha256/${hexOf(blob.digest)}`;
    const image = archive.get(digest) ?? {
      Config: file(manifest.config),
      RepoTags: [],
      Layers: manifest.layers.map(file),
    };
    if (name !== undefined && !name.includes('@')) image.RepoTags.push(familiar(name));
    archive.set(digest, image);
  }
  const write = (name: string, value: unknown) =>
    fs.writeFile(workspace.at('save', name), JSON.stringify(value));
  await write('oci-layout', { imageLayoutVersion: '1.0.0' });
  const index = 'application/vnd.oci.image.index.v1+json';
  await write('index.json', { schemaVersion: 2, mediaType: index, manifests });
  await write('manifest.json', [...archive.values()]);
}
