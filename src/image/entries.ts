import { ID_ANNOTATION, REF_NAME } from './annotations.js';
import type { Descriptor, Digest } from './types.js';

export interface NamedManifest {
  /** The image id: the digest of its config. */
  id: Digest;
  manifest: Descriptor;
  /** Normalised names; none for an image that has its id only. */
  references: string[];
}

/** The entries of an index with an image added to them; a name belongs to the image that got it last. */
export function withImage(manifests: Descriptor[], image: NamedManifest): Descriptor[] {
  const { id, manifest, references } = image;
  const taken = new Set(references);
  const losers = manifests.filter((entry) => taken.has(entry.annotations?.[REF_NAME] ?? ''));
  let entries = manifests.filter((entry) => !losers.includes(entry));
  // An image that loses its last name keeps its id.
  for (const entry of losers) {
    if (entry.digest === manifest.digest) continue;
    if (entries.some((other) => other.digest === entry.digest)) continue;
    const { [REF_NAME]: _name, ...annotations } = entry.annotations ?? {};
    entries.push({ ...entry, annotations });
  }
  const unnamed = (entry: Descriptor) => entry.annotations?.[REF_NAME] === undefined;
  const mine = (entry: Descriptor) => entry.digest === manifest.digest;
  if (references.length > 0) entries = entries.filter((entry) => !(mine(entry) && unnamed(entry)));
  else if (!entries.some(mine)) entries.push(entryOf(manifest, id, undefined));
  for (const reference of references) entries.push(entryOf(manifest, id, reference));
  return entries;
}

function entryOf(manifest: Descriptor, id: Digest, reference: string | undefined): Descriptor {
  const { [REF_NAME]: _name, ...annotations } = manifest.annotations ?? {};
  return {
    ...manifest,
    platform: { architecture: 'amd64', os: 'linux' },
    annotations: {
      ...annotations,
      [ID_ANNOTATION]: id,
      ...(reference === undefined ? {} : { [REF_NAME]: reference }),
    },
  };
}
