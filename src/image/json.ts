import type { ErrorObject } from 'ajv';

import { validate as validateConfig } from '../generated/validators/image-config.js';
import { validate as validateDockerArchive } from '../generated/validators/docker-archive.js';
import { validate as validateIndex } from '../generated/validators/image-index.js';
import { validate as validateManifest } from '../generated/validators/image-manifest.js';
import { ImageError, type ImageErrorCode } from './errors.js';
import type { ImageConfig, ImageIndex, ImageManifest } from './types.js';

/** One image of a docker archive's manifest.json. */
export interface DockerArchiveEntry {
  Config: string;
  RepoTags?: string[] | null;
  Layers: string[] | null;
}

interface Validator {
  (data: unknown): boolean;
  errors?: ErrorObject[] | null;
}

/** @throws ImageError ERR_IMAGE_CONFIG, with the field that is wrong */
export function parseConfig(what: string, bytes: Uint8Array): ImageConfig {
  return parse(what, bytes, validateConfig, 'ERR_IMAGE_CONFIG') as ImageConfig;
}

/** @throws ImageError ERR_IMAGE_MANIFEST, with the field that is wrong */
export function parseManifest(what: string, bytes: Uint8Array): ImageManifest {
  return parse(what, bytes, validateManifest, 'ERR_IMAGE_MANIFEST') as ImageManifest;
}

/** @throws ImageError ERR_IMAGE_MANIFEST, with the field that is wrong */
export function parseIndex(what: string, bytes: Uint8Array): ImageIndex {
  return parse(what, bytes, validateIndex, 'ERR_IMAGE_MANIFEST') as ImageIndex;
}

/** @throws ImageError ERR_IMAGE_MANIFEST, with the field that is wrong */
export function parseDockerArchive(what: string, bytes: Uint8Array): DockerArchiveEntry[] {
  return parse(what, bytes, validateDockerArchive, 'ERR_IMAGE_MANIFEST') as DockerArchiveEntry[];
}

function parse(
  what: string,
  bytes: Uint8Array,
  validate: Validator,
  code: ImageErrorCode,
): unknown {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new ImageError(code, `${what} is not JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
  if (validate(value)) return value;
  const [first] = validate.errors ?? [];
  const field = first?.instancePath || '/';
  const found = first?.keyword === 'required' ? '' : `, not ${shorten(first?.data)}`;
  throw new ImageError(
    code,
    `${what} does not fit its schema: ${field} ${first?.message ?? 'is wrong'}${found}`,
    { field },
  );
}

function shorten(value: unknown): string {
  const text = JSON.stringify(value) ?? 'undefined';
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
