import { createHash } from 'node:crypto';

import { ImageError } from './errors.js';
import type { Digest } from './types.js';

const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';
const SHORT_NAME_LENGTH = 26;

export function isDigest(text: unknown): text is Digest {
  return typeof text === 'string' && /^sha256:[0-9a-f]{64}$/.test(text);
}

/** The 64 hex digits of a digest. */
export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

export function sha256(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** The twelve digits that people are shown. */
export function shortDigest(digest: Digest): string {
  return hexOf(digest).slice(0, 12);
}

/**
 * The directory name of an unpacked layer: the first 130 bits of its diff id in base32, 26 characters of [a-z2-7].
 * Overlay mount options must fit one page, so that 64 hex digits would limit an image to some 60 layers.
 */
export function layerName(diffId: Digest): string {
  let bits = BigInt(`0x${hexOf(diffId)}`) >> BigInt(256 - SHORT_NAME_LENGTH * 5);
  let name = '';
  for (let i = 0; i < SHORT_NAME_LENGTH; i++) {
    name = (BASE32[Number(bits & 31n)] ?? '') + name;
    bits >>= 5n;
  }
  return name;
}

/**
 * Checks content that was read whole against what it was announced as.
 *
 * @throws ImageError ERR_IMAGE_DIGEST_MISMATCH
 */
export function checkDigest(
  what: string,
  actual: { digest: Digest; size: number },
  expected: { digest?: Digest | undefined; size?: number | undefined },
): void {
  if (expected.size !== undefined && actual.size !== expected.size) {
    throw new ImageError(
      'ERR_IMAGE_DIGEST_MISMATCH',
      `${what} has ${actual.size} bytes, its descriptor says ${expected.size}; get the image again`,
    );
  }
  if (expected.digest !== undefined && actual.digest !== expected.digest) {
    throw new ImageError(
      'ERR_IMAGE_DIGEST_MISMATCH',
      `${what} has digest ${actual.digest}, it should be ${expected.digest}; get the image again`,
    );
  }
}
