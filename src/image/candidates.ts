import path from 'node:path';

import { CONTAINERD_NAME, REF_NAME } from './annotations.js';
import { checkDigest, hexOf, isDigest, sha256 } from './digest.js';
import { ImageError } from './errors.js';
import { parseConfig, parseDockerArchive, parseIndex, parseManifest } from './json.js';
import { formatReference, isTag, parseReference } from './reference.js';
import { fileInside, readInside, type SourceDirectory } from './source.js';
import type { Descriptor, Digest, ImageConfig, ImageIndex, ImageManifest } from './types.js';

/** Manifests, indexes and configs are JSON of some KiB. */
const JSON_LIMIT = 8 << 20;
const MAX_INDEX_DEPTH = 4;

export const INDEX_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
];
export const MANIFEST_TYPES = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
];
export const CONFIG_TYPES = [
  'application/vnd.oci.image.config.v1+json',
  'application/vnd.docker.container.image.v1+json',
];

/** An image that a source offers; its layers have not been looked at yet. */
export interface Candidate {
  /** Normalised names. */
  references: string[];
  config: ImageConfig;
  configBytes: Buffer;
  configDigest: Digest;
  /** The manifest as it came; docker archives have none. */
  manifest?: { value: ImageManifest; bytes: Buffer; descriptor: Descriptor };
  layers: CandidateLayer[];
}

export interface CandidateLayer {
  file: string;
  fileSize: number;
  diffId: Digest;
  /** What its descriptor, or its file name, promises. */
  digest?: Digest;
  size?: number;
  mediaType?: string;
}

/**
 * Reads what images a source holds. A source that is both (docker save since version 25) is read as an OCI layout,
 * which says more; the names come from both.
 *
 * @throws ImageError ERR_IMAGE_ARCHIVE_FORMAT, ERR_IMAGE_MANIFEST, ERR_IMAGE_CONFIG, ERR_IMAGE_BLOB_MISSING,
 *   ERR_IMAGE_DIGEST_MISMATCH, ERR_IMAGE_PLATFORM, ...
 */
export async function readCandidates(source: SourceDirectory): Promise<Candidate[]> {
  const marker = await readInside(source, 'oci-layout', JSON_LIMIT);
  const indexBytes = await readInside(source, 'index.json', JSON_LIMIT);
  const dockerBytes = await readInside(source, 'manifest.json', JSON_LIMIT);
  const what = `manifest.json of ${source.label}`;
  const entries = dockerBytes ? parseDockerArchive(what, dockerBytes) : [];
  if (marker && indexBytes) {
    checkLayoutVersion(source, marker);
    const index = parseIndex(`index.json of ${source.label}`, indexBytes);
    const tags = new Map<string, string[]>();
    for (const entry of entries) {
      const digest = digestInName(entry.Config);
      if (digest) tags.set(digest, [...(tags.get(digest) ?? []), ...(entry.RepoTags ?? [])]);
    }
    return readLayout(source, index, tags);
  }
  if (dockerBytes) {
    if (entries.length === 0) throw notAnArchive(source, 'its manifest.json lists no image');
    const candidates: Candidate[] = [];
    for (const entry of entries) {
      const { bytes, digest } = await readDockerConfig(source, entry.Config);
      const config = parseConfig(`the image config ${entry.Config} of ${source.label}`, bytes);
      const layers: CandidateLayer[] = [];
      for (const [i, name] of (entry.Layers ?? []).entries()) {
        const file = await fileInside(source, name);
        if (!file) throw blobMissing(source, `the layer ${name}`);
        const promised = name.startsWith('blobs/') ? digestInName(name) : undefined;
        layers.push({
          file: file.path,
          fileSize: file.size,
          diffId: diffIdAt(source, config, i),
          ...(promised ? { digest: promised } : {}),
        });
      }
      checkLayerCount(source, config, layers.length);
      checkPlatform(source, config);
      const references = normalise(entry.RepoTags ?? []);
      candidates.push({ references, config, configBytes: bytes, configDigest: digest, layers });
    }
    return candidates;
  }
  throw notAnArchive(source, 'it has neither index.json with oci-layout nor manifest.json');
}

async function readLayout(
  source: SourceDirectory,
  index: ImageIndex,
  dockerTags: Map<string, string[]>,
): Promise<Candidate[]> {
  const found = new Map<string, Candidate>();
  let other = '';
  for (const descriptor of index.manifests) {
    const picked = await pickManifest(source, descriptor, 0);
    if (typeof picked === 'string') {
      other ||= picked;
      continue;
    }
    const known = found.get(picked.descriptor.digest);
    const candidate = known ?? (await readManifest(source, picked));
    if (typeof candidate === 'string') {
      other ||= candidate;
      continue;
    }
    const names = namesOf(source, descriptor);
    if (!known) names.push(...(dockerTags.get(candidate.configDigest) ?? []));
    candidate.references = [...new Set([...candidate.references, ...normalise(names)])];
    found.set(picked.descriptor.digest, candidate);
  }
  if (found.size === 0) {
    if (!other) throw notAnArchive(source, 'its index.json lists no image');
    throw new ImageError(
      'ERR_IMAGE_PLATFORM',
      `${source.label} holds no image for linux/amd64 (${other}); get the one for this platform`,
    );
  }
  return [...found.values()];
}

interface PickedManifest {
  descriptor: Descriptor;
  value: ImageManifest;
  bytes: Buffer;
}

/** The manifest for this platform, or why there is none. */
async function pickManifest(
  source: SourceDirectory,
  descriptor: Descriptor,
  depth: number,
): Promise<PickedManifest | string> {
  const { platform, mediaType, digest } = descriptor;
  if (platform && (platform.os !== 'linux' || platform.architecture !== 'amd64')) {
    return `it has ${platform.os}/${platform.architecture}`;
  }
  if (descriptor.artifactType !== undefined) return `it has ${descriptor.artifactType}`;
  if (INDEX_TYPES.includes(mediaType)) {
    if (depth >= MAX_INDEX_DEPTH) throw notAnArchive(source, 'its indexes are nested too deeply');
    const bytes = await readBlob(source, descriptor);
    const index = parseIndex(`the index ${digest} of ${source.label}`, bytes);
    let other = 'its index is empty';
    for (const child of index.manifests) {
      // An index of several platforms may come with the blobs of one.
      if (!(await fileInside(source, blobPath(child.digest)))) {
        other = `the manifest ${child.digest} is not in it`;
        continue;
      }
      const picked = await pickManifest(source, child, depth + 1);
      if (typeof picked !== 'string') return picked;
      other = picked;
    }
    return other;
  }
  if (!MANIFEST_TYPES.includes(mediaType)) return `it has ${mediaType}`;
  const bytes = await readBlob(source, descriptor);
  const value = parseManifest(`the manifest ${digest} of ${source.label}`, bytes);
  if (value.artifactType !== undefined) return `it has ${value.artifactType}`;
  if (!CONFIG_TYPES.includes(value.config.mediaType)) return `it has ${value.config.mediaType}`;
  return { descriptor, value, bytes };
}

/** The image of a manifest, or why it is not for this platform. */
async function readManifest(
  source: SourceDirectory,
  manifest: PickedManifest,
): Promise<Candidate | string> {
  const { value } = manifest;
  const configBytes = await readBlob(source, value.config);
  const config = parseConfig(
    `the image config ${value.config.digest} of ${source.label}`,
    configBytes,
  );
  if (config.os !== 'linux' || config.architecture !== 'amd64') {
    return `it has ${config.os}/${config.architecture}`;
  }
  checkLayerCount(source, config, value.layers.length);
  const layers: CandidateLayer[] = [];
  for (const [i, { digest, size, mediaType }] of value.layers.entries()) {
    const file = await fileInside(source, blobPath(digest));
    if (!file) throw blobMissing(source, `the layer ${digest}`);
    const diffId = diffIdAt(source, config, i);
    layers.push({ file: file.path, fileSize: file.size, diffId, digest, size, mediaType });
  }
  const configDigest = value.config.digest;
  return { references: [], config, configBytes, configDigest, manifest, layers };
}

async function readBlob(source: SourceDirectory, descriptor: Descriptor): Promise<Buffer> {
  const bytes = await readInside(source, blobPath(descriptor.digest), JSON_LIMIT);
  if (!bytes) throw blobMissing(source, `the blob ${descriptor.digest}`);
  const actual = { digest: sha256(bytes), size: bytes.length };
  checkDigest(`the blob ${descriptor.digest} of ${source.label}`, actual, descriptor);
  return bytes;
}

async function readDockerConfig(
  source: SourceDirectory,
  name: string,
): Promise<{ bytes: Buffer; digest: Digest }> {
  const bytes = await readInside(source, name, JSON_LIMIT);
  if (!bytes) throw blobMissing(source, `the image config ${name}`);
  const digest = sha256(bytes);
  checkDigest(
    `the image config ${name} of ${source.label}`,
    { digest, size: bytes.length },
    { digest: digestInName(name) },
  );
  return { bytes, digest };
}

/**
 * The names that an index entry gives its image. An OCI ref.name may be a tag by itself, whose repository is the
 * layout: then the file or directory is the repository's name, as in `debian.tar` for `debian:12`.
 */
function namesOf(source: SourceDirectory, descriptor: Descriptor): string[] {
  const full = descriptor.annotations?.[CONTAINERD_NAME];
  if (full !== undefined) return [full];
  const name = descriptor.annotations?.[REF_NAME];
  if (name === undefined) return [];
  if (!isTag(name)) return [name];
  const repository = (source.fileName ?? '')
    .toLowerCase()
    .replace(/(?:\.(?:oci|docker|tar|tgz|gz|zst|xz|bz2))+$/, '');
  const isRepository = /^[a-z0-9._-]+$/.test(repository);
  return [isRepository ? `${repository}:${name}` : name];
}

/** Names that are none are left out: the image is still there under its id. */
function normalise(names: string[]): string[] {
  const references = new Set<string>();
  for (const name of names) {
    try {
      references.add(formatReference(parseReference(name)));
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
    }
  }
  return [...references];
}

function checkLayoutVersion(source: SourceDirectory, marker: Buffer): void {
  let version: unknown;
  try {
    version = (JSON.parse(marker.toString()) as { imageLayoutVersion?: unknown })
      .imageLayoutVersion;
  } catch {
    version = undefined;
  }
  if (typeof version !== 'string' || !version.startsWith('1.')) {
    throw notAnArchive(source, `its oci-layout file has no version 1.x`);
  }
}

function checkPlatform(source: SourceDirectory, config: ImageConfig): void {
  if (config.os === 'linux' && config.architecture === 'amd64') return;
  throw new ImageError(
    'ERR_IMAGE_PLATFORM',
    `${source.label} holds an image for ${config.os}/${config.architecture}, not for linux/amd64; get the one for this platform`,
  );
}

function checkLayerCount(source: SourceDirectory, config: ImageConfig, count: number): void {
  const promised = config.rootfs.diff_ids.length;
  if (count === promised) return;
  throw new ImageError(
    'ERR_IMAGE_CONFIG',
    `an image of ${source.label} has ${count} layers, its config lists ${promised} (/rootfs/diff_ids)`,
    { field: '/rootfs/diff_ids' },
  );
}

function diffIdAt(source: SourceDirectory, config: ImageConfig, index: number): Digest {
  const diffId = config.rootfs.diff_ids[index];
  if (diffId === undefined) {
    throw new ImageError(
      'ERR_IMAGE_CONFIG',
      `an image of ${source.label} has more layers than its config lists (/rootfs/diff_ids)`,
      { field: '/rootfs/diff_ids' },
    );
  }
  return diffId;
}

function blobPath(digest: Digest): string {
  return `blobs/sha256/${hexOf(digest)}`;
}

/** `<hex>.json` and `blobs/sha256/<hex>` promise a digest. */
function digestInName(name: string): Digest | undefined {
  const digest = `sha256:${path.basename(name, '.json')}`;
  return isDigest(digest) ? digest : undefined;
}

function blobMissing(source: SourceDirectory, what: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_BLOB_MISSING',
    `${source.label} does not hold ${what}, which its manifest names; get it again`,
  );
}

function notAnArchive(source: SourceDirectory, why: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_ARCHIVE_FORMAT',
    `${source.label} is no image archive: ${why}; it takes one made by "docker save", or an OCI layout`,
  );
}
