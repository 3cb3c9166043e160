import fs from 'node:fs/promises';

import { errnoOf } from '../errors.js';
import { ID_ANNOTATION, REF_NAME, REPOSITORY_DIGEST } from './annotations.js';
import { isDigest } from './digest.js';
import { ImageError } from './errors.js';
import type { Layout } from './layout.js';
import { familiarName, formatReference, parseReference, type Reference } from './reference.js';
import type { Descriptor, Digest, ImageSummary } from './types.js';

const MIN_ID_PREFIX = 4;

/** What a user's text means: entries of the index, all with the same image id. */
export interface Found {
  entries: [Descriptor, ...Descriptor[]];
  byId: boolean;
}

/** Finds and lists images. It reads only, takes no lock, and costs no start-up: what writes is in operations.ts. */
export class Catalog {
  constructor(readonly layout: Layout) {}

  /** Every image, by name, those without a name last. */
  async list(): Promise<ImageSummary[]> {
    const groups = new Map<string, { id: Digest; entries: Descriptor[] }>();
    for (const entry of this.layout.readIndex().manifests) {
      const id = await this.idOf(entry);
      const group = groups.get(id) ?? { id, entries: [] };
      group.entries.push(entry);
      groups.set(id, group);
    }
    const images: ImageSummary[] = [];
    for (const { id, entries } of groups.values()) images.push(await this.summary(id, entries));
    const key = (image: ImageSummary) => image.names[0] ?? `\uffff${image.id}`;
    return images.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  }

  /** The index entries that a user's text means; all have the same image id. */
  async find(text: string): Promise<Found> {
    const index = this.layout.readIndex().manifests;
    const bare = text.replace(/^sha256:/, '');
    if (/^[0-9a-f]{64}$/.test(bare)) {
      return { entries: await this.#withId(text, index, bare), byId: true };
    }
    let reference: Reference | undefined;
    let refused: ImageError | undefined;
    try {
      reference = parseReference(text);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      refused = error;
    }
    if (reference) {
      const exact = formatReference({ ...reference, ...(reference.digest ? { tag: '' } : {}) });
      let entries = index.filter((entry) => entry.annotations?.[REF_NAME] === exact);
      if (entries.length === 0 && reference.digest !== undefined) {
        entries = index.filter((entry) => hasDigest(entry, reference));
      }
      if (entries[0]) return { entries: [entries[0], ...entries.slice(1)], byId: false };
    }
    if (bare.length >= MIN_ID_PREFIX && /^[0-9a-f]{1,63}$/.test(bare)) {
      return { entries: await this.#withId(text, index, bare), byId: true };
    }
    throw refused ?? notFound(text);
  }

  async #withId(
    text: string,
    index: Descriptor[],
    prefix: string,
  ): Promise<[Descriptor, ...Descriptor[]]> {
    const found = new Map<string, Descriptor[]>();
    for (const entry of index) {
      const id = await this.idOf(entry);
      const wanted = `sha256:${prefix}`;
      // containerd's users know an image by the digest of its manifest.
      if (!id.startsWith(wanted) && entry.digest !== wanted) continue;
      found.set(id, [...(found.get(id) ?? []), entry]);
    }
    if (found.size > 1) {
      const ids = [...found.keys()].map((id) => id.slice('sha256:'.length, 'sha256:'.length + 16));
      throw new ImageError(
        'ERR_IMAGE_AMBIGUOUS',
        `the id ${text} is ambiguous: ${ids.join(', ')} begin so; give more digits`,
      );
    }
    const [[first, ...more] = []] = found.values();
    if (!first) throw notFound(text);
    return [first, ...more];
  }

  /** The id of the image of an index entry. */
  async idOf(entry: Descriptor): Promise<Digest> {
    const id = entry.annotations?.[ID_ANNOTATION];
    if (isDigest(id)) return id;
    // Put here by another tool.
    const { parseManifest } = await import('./json.js');
    const manifest = parseManifest(
      `the manifest ${entry.digest}`,
      await this.readBlob(entry.digest),
    );
    return manifest.config.digest;
  }

  /** @throws ImageError ERR_IMAGE_STORE */
  async readBlob(digest: Digest): Promise<Buffer> {
    const file = this.layout.blobPath(digest);
    try {
      return await fs.readFile(file);
    } catch (error) {
      const why = errnoOf(error) === 'ENOENT' ? 'it is missing' : (error as Error).message;
      throw new ImageError(
        'ERR_IMAGE_STORE',
        `cannot read the blob ${file}: ${why}; load the image again`,
        { cause: error },
      );
    }
  }

  /** `entries`: all of the index with this id. */
  async summary(id: Digest, entries: Descriptor[]): Promise<ImageSummary> {
    const digest = entries[0]?.digest ?? id;
    const names = referencesOf(entries).map(familiar).sort();
    const repositoryDigests = repositoryDigestsOf(entries);
    const record = this.layout.readImageRecord(digest);
    if (record) {
      const { size, config } = record;
      const created = config.created ? { created: config.created } : {};
      return {
        id,
        digest,
        names,
        repositoryDigests,
        ...created,
        size,
        os: config.os,
        architecture: config.architecture,
        ...(config.config?.Labels ? { labels: config.config.Labels } : {}),
      };
    }
    // Shown although it is not whole, so that it can be removed.
    return { id, digest, names, repositoryDigests, size: 0, os: 'linux', architecture: 'amd64' };
  }
}

/** Whether an entry is of the reference's repository, and has its digest there or here. */
function hasDigest(entry: Descriptor, { domain, path: repository, digest }: Reference): boolean {
  const { [REF_NAME]: name = '', [REPOSITORY_DIGEST]: there } = entry.annotations ?? {};
  return (
    (name.startsWith(`${domain}/${repository}:`) || name.startsWith(`${domain}/${repository}@`)) &&
    (entry.digest === digest || there === digest)
  );
}

/** The normalised names of index entries, sorted. */
export function referencesOf(entries: Descriptor[]): string[] {
  const names = entries.map((entry) => entry.annotations?.[REF_NAME]);
  return names.filter((name) => name !== undefined).sort();
}

/** The familiar form of a name in the index. */
export function familiar(reference: string): string {
  try {
    return familiarName(parseReference(reference));
  } catch {
    return reference; // put here by another tool
  }
}

/** `repository@digest` of the entries that came from a registry, familiar and sorted. */
export function repositoryDigestsOf(entries: Descriptor[]): string[] {
  const found = new Set<string>();
  for (const { annotations } of entries) {
    const { [REF_NAME]: name, [REPOSITORY_DIGEST]: digest } = annotations ?? {};
    if (name === undefined || digest === undefined) continue;
    const repository = familiar(name).replace(/(?:@[^@]*|:[^:/]*)$/, '');
    found.add(`${repository}@${digest}`);
  }
  return [...found].sort();
}

export function notFound(text: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_NOT_FOUND',
    `No such image: ${text}; see "clearvm images", or load one with "clearvm load"`,
  );
}
