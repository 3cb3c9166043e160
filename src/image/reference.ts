import { ImageError } from './errors.js';
import type { Digest } from './types.js';

const DEFAULT_DOMAIN = 'docker.io';
const OFFICIAL_PREFIX = 'library/';
const DEFAULT_TAG = 'latest';

// The grammar of github.com/distribution/reference, which docker, podman and containerd share.
const DOMAIN_COMPONENT = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const IPV6 = '\\[(?:[a-fA-F0-9:]+)\\]';
const DOMAIN = `(?:${DOMAIN_COMPONENT}(?:\\.${DOMAIN_COMPONENT})*|${IPV6})(?::[0-9]+)?`;
const PATH_COMPONENT = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*';
const PATH = `${PATH_COMPONENT}(?:/${PATH_COMPONENT})*`;
const TAG = '[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}';
const DIGEST = 'sha256:[0-9a-f]{64}';
const REFERENCE = new RegExp(`^(${DOMAIN})/(${PATH})(?::(${TAG}))?(?:@(${DIGEST}))?$`);
const TAG_ONLY = new RegExp(`^${TAG}$`);

/** The longest repository name, domain included, that the grammar allows. */
const MAX_NAME = 255;
/** The longest name, with the longest tag and a digest. */
const MAX_TEXT = MAX_NAME + 1 + 128 + 1 + 71;

/** An image reference, normalised as docker does it. */
export interface Reference {
  /** `docker.io`, `localhost:5000`, ... */
  domain: string;
  /** `library/debian`. */
  path: string;
  /** Set unless a digest was given without a tag; `latest` by default. */
  tag?: string;
  digest?: Digest;
}

/**
 * Parses a reference: `debian`, `debian:12`, `ghcr.io/a/b@sha256:...`. A first component without a dot, a colon or
 * upper-case letters that is not `localhost` is no domain: docker.io is meant, and `library/` for a single component.
 *
 * @throws ImageError ERR_IMAGE_REFERENCE
 */
export function parseReference(text: string): Reference {
  if (/^(?:sha256:)?[0-9a-f]{64}$/.test(text)) {
    throw bad(text, 'it reads as an image id, and a name cannot look like one');
  }
  if (text.length > MAX_TEXT) throw bad(text, `it is longer than ${MAX_TEXT} characters`);
  const slash = text.indexOf('/');
  const first = slash < 0 ? '' : text.slice(0, slash);
  let domain = DEFAULT_DOMAIN;
  let rest = text;
  if (/[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase()) {
    domain = first === 'index.docker.io' ? DEFAULT_DOMAIN : first;
    rest = text.slice(slash + 1);
  }
  if (domain === DEFAULT_DOMAIN && !rest.includes('/')) rest = OFFICIAL_PREFIX + rest;
  const match = REFERENCE.exec(`${domain}/${rest}`);
  if (!match) {
    const name = rest.split(/[:@]/)[0] ?? '';
    if (name !== name.toLowerCase()) throw bad(text, 'the repository name must be lower case');
    throw bad(text, 'the form is [domain/]repository[:tag][@sha256:digest]');
  }
  const [, matchedDomain = '', path = '', tag, digest] = match;
  if (matchedDomain.length + 1 + path.length > MAX_NAME) {
    throw bad(text, `the name is longer than ${MAX_NAME} characters`);
  }
  const reference: Reference = { domain: matchedDomain, path };
  if (digest !== undefined) reference.digest = digest as Digest;
  if (tag !== undefined) reference.tag = tag;
  else if (digest === undefined) reference.tag = DEFAULT_TAG;
  return reference;
}

/** Whether `parseReference` takes the text. */
export function isReference(text: string): boolean {
  try {
    parseReference(text);
    return true;
  } catch {
    return false;
  }
}

/** The normalised text of a reference: `docker.io/library/debian:12`. */
export function formatReference(reference: Reference): string {
  return `${reference.domain}/${reference.path}${suffix(reference)}`;
}

/** The short form that people use: `debian:12` for `docker.io/library/debian:12`. */
export function familiarName(reference: Reference): string {
  let name = `${reference.domain}/${reference.path}`;
  if (reference.domain === DEFAULT_DOMAIN) {
    name = reference.path;
    const short = name.slice(OFFICIAL_PREFIX.length);
    // "library/a/b" must stay as it is: "a/b" would be read as docker.io/a/b.
    if (name.startsWith(OFFICIAL_PREFIX) && !short.includes('/')) name = short;
  }
  return name + suffix(reference);
}

/** A registry's name as references have it, of a URL or of one of Docker Hub's names. */
export function registryName(text = 'docker.io'): string {
  const host = text.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
  return /^(?:index\.|registry-1\.)?docker\.io$/.test(host) || host === '' ? 'docker.io' : host;
}

/** Whether the text is a tag by itself ("12.5"), as an OCI layout's ref.name may be. */
export function isTag(text: string): boolean {
  return TAG_ONLY.test(text);
}

function suffix(reference: Reference): string {
  return (
    (reference.tag ? `:${reference.tag}` : '') + (reference.digest ? `@${reference.digest}` : '')
  );
}

function bad(text: string, why: string): ImageError {
  const shown = text.length > 300 ? `${text.slice(0, 300)}...` : text;
  return new ImageError(
    'ERR_IMAGE_REFERENCE',
    `${JSON.stringify(shown)} is no image reference: ${why}`,
  );
}
