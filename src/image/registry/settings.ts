/** How each registry is reached: registries.json, docker's certs.d, and what docker does by default. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';

import { errnoOf, messageOf } from '../../errors.js';
import { validate } from '../../generated/validators/registries.js';
import { ImageError } from '../errors.js';

const SYSTEM_FILE = '/etc/clearvm/registries.json';
const CERTIFICATES = '/etc/docker/certs.d';
/** docker.io is a name; its registry has another. */
const DOCKER_HUB = 'registry-1.docker.io';

interface RegistrySettings {
  /** http, or https with whatever certificate. */
  insecure?: boolean;
  /** A file of PEM certificates that are trusted besides the system's. */
  ca?: string;
  /** `https://host[:port]`, asked before the registry itself. */
  mirrors?: string[];
}

/** One place that serves a registry's content. */
export interface Endpoint {
  /** What messages and credentials call it: the domain of references, or a mirror's host. */
  name: string;
  /** `host[:port]` to connect to. */
  host: string;
  /** Tried in this order. */
  schemes: ('https' | 'http')[];
  /** Whether certificates are checked. */
  verify: boolean;
  /** PEM. */
  ca: string[];
  cert?: string;
  key?: string;
  mirror: boolean;
}

/** The user's file: $XDG_CONFIG_HOME/clearvm/registries.json, or the same below ~/.config. */
function userFile(): string {
  const base = process.env['XDG_CONFIG_HOME'] || path.join(homedir(), '.config');
  return path.join(base, 'clearvm', 'registries.json');
}

/**
 * Where a registry's content is to be had: its mirrors, then itself.
 *
 * @param domain as in references: `docker.io`, `localhost:5000`
 * @throws ImageError ERR_REGISTRY_CONFIG
 */
export function endpointsOf(domain: string): Endpoint[] {
  const settings = readSettings(domain);
  const mirrors = (settings.mirrors ?? []).map((text) => {
    const { host, protocol } = new URL(text);
    const own = readSettings(host);
    const scheme = protocol === 'http:' ? 'http' : 'https';
    return { ...endpoint(host, host, own), schemes: [scheme], mirror: true } satisfies Endpoint;
  });
  const host = domain === 'docker.io' ? DOCKER_HUB : domain;
  return [...mirrors, endpoint(domain, host, settings)];
}

function endpoint(name: string, host: string, settings: RegistrySettings): Endpoint {
  const insecure = settings.insecure ?? isLoopback(host);
  return {
    name,
    host,
    schemes: insecure ? ['https', 'http'] : ['https'],
    verify: !insecure,
    ...certificatesOf(host, settings),
    mirror: false,
  };
}

/** As docker has it: what comes from this very machine needs no certificate. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/:\d+$/, '');
  return name === 'localhost' || name === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(name);
}

function certificatesOf(
  host: string,
  { ca }: RegistrySettings,
): Pick<Endpoint, 'ca' | 'cert' | 'key'> {
  const directory = path.join(CERTIFICATES, host);
  const names = existsSync(directory) ? readdirSync(directory).sort() : [];
  const files = names.filter((name) => name.endsWith('.crt')).map((n) => path.join(directory, n));
  if (ca !== undefined) files.push(ca);
  const found: Pick<Endpoint, 'ca' | 'cert' | 'key'> = { ca: files.map(read) };
  const cert = names.find((name) => name.endsWith('.cert'));
  if (cert !== undefined) {
    found.cert = read(path.join(directory, cert));
    found.key = read(path.join(directory, cert.replace(/cert$/, 'key')));
  }
  return found;
}

/** The user's settings of a registry, over the system's. */
function readSettings(domain: string): RegistrySettings {
  return { ...readFile(SYSTEM_FILE)[domain], ...readFile(userFile())[domain] };
}

function readFile(file: string): Record<string, RegistrySettings> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return {};
    throw bad(file, messageOf(error), error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad(file, messageOf(error), error);
  }
  if (!validate(value)) {
    const [first] = validate.errors ?? [];
    throw bad(file, `${first?.instancePath || '/'} ${first?.message ?? 'is wrong'}`);
  }
  return (value as { registries: Record<string, RegistrySettings> }).registries;
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw bad(file, messageOf(error), error);
  }
}

function bad(file: string, why: string, cause?: unknown): ImageError {
  return new ImageError(
    'ERR_REGISTRY_CONFIG',
    `cannot use ${file}: ${why}; see docs/images.md for what it may hold`,
    { cause },
  );
}
