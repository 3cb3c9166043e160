/** Registry logins where docker keeps them: $DOCKER_CONFIG/config.json, and the credential helpers that it names. */
import { readFileSync, realpathSync } from 'node:fs';
import fs from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';

import { execa, ExecaError } from 'execa';

import { errnoOf, messageOf } from '../../errors.js';
import { ImageError } from '../errors.js';

/** What docker calls Docker Hub in its files. */
const DOCKER_HUB = 'https://index.docker.io/v1/';
/** The user name with which helpers hand out an identity token. */
const TOKEN_USER = '<token>';

export interface Credentials {
  username: string;
  /** Password, or personal access token. */
  password: string;
  /** An OAuth2 refresh token, in place of both. */
  identityToken?: string;
}

interface AuthEntry {
  auth?: string;
  username?: string;
  password?: string;
  identitytoken?: string;
}

interface DockerConfig {
  auths?: Record<string, AuthEntry>;
  credsStore?: string;
  credHelpers?: Record<string, string>;
}

/** The configuration file that logins are read from and written to. */
export function dockerConfigFile(): string {
  return path.join(process.env['DOCKER_CONFIG'] || path.join(homedir(), '.docker'), 'config.json');
}

/**
 * The login for a registry, or undefined where there is none.
 *
 * @param registry as in references: `docker.io`, `localhost:5000`
 * @throws ImageError ERR_REGISTRY_CONFIG, ERR_REGISTRY_CREDENTIALS
 */
export async function findCredentials(registry: string): Promise<Credentials | undefined> {
  const config = readConfig();
  const key = keyOf(registry);
  const helper = helperOf(config, key);
  if (helper !== undefined) {
    const answer = await runHelper(helper, 'get', key);
    if (answer !== undefined) return parseHelperAnswer(helper, answer);
  }
  for (const [name, entry] of Object.entries(config.auths ?? {})) {
    if (hostOf(name) !== hostOf(key)) continue;
    const credentials = decodeEntry(name, entry);
    if (credentials) return credentials;
  }
  return undefined;
}

/**
 * Keeps a login.
 *
 * @returns the file that holds the password unencrypted, or undefined where a helper took it
 * @throws ImageError ERR_REGISTRY_CONFIG, ERR_REGISTRY_CREDENTIALS
 */
export async function storeCredentials(
  registry: string,
  { username, password }: Credentials,
): Promise<string | undefined> {
  const config = readConfig();
  const key = keyOf(registry);
  const helper = helperOf(config, key);
  if (helper !== undefined) {
    const secret = { ServerURL: key, Username: username, Secret: password };
    await runHelper(helper, 'store', JSON.stringify(secret));
    await writeAuths({ ...config.auths, [key]: {} }, config);
    return undefined;
  }
  const auth = Buffer.from(`${username}:${password}`).toString('base64');
  return writeAuths({ ...config.auths, [key]: { auth } }, config);
}

/**
 * Forgets a login.
 *
 * @returns whether there was one
 * @throws ImageError ERR_REGISTRY_CONFIG, ERR_REGISTRY_CREDENTIALS
 */
export async function eraseCredentials(registry: string): Promise<boolean> {
  const config = readConfig();
  const key = keyOf(registry);
  const helper = helperOf(config, key);
  let found = false;
  if (helper !== undefined) {
    found = (await runHelper(helper, 'get', key)) !== undefined;
    if (found) await runHelper(helper, 'erase', key);
  }
  const entries = Object.entries(config.auths ?? {});
  const kept = entries.filter(([name]) => hostOf(name) !== hostOf(key));
  if (kept.length === entries.length) return found;
  await writeAuths(Object.fromEntries(kept), config);
  return true;
}

function keyOf(registry: string): string {
  return registry === 'docker.io' ? DOCKER_HUB : registry;
}

/** Keys of `auths` may be URLs, with versions of the API behind them. */
function hostOf(key: string): string {
  return key.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
}

function helperOf(config: DockerConfig, key: string): string | undefined {
  const named = config.credHelpers?.[key] ?? config.credHelpers?.[hostOf(key)];
  return (named ?? config.credsStore) || undefined;
}

function decodeEntry(name: string, entry: AuthEntry): Credentials | undefined {
  let { username = '', password = '' } = entry;
  if (entry.auth) {
    const text = Buffer.from(entry.auth, 'base64').toString();
    const colon = text.indexOf(':');
    if (colon <= 0) throw bad(`/auths/${name}/auth is not base64 of USER:PASSWORD`);
    username = text.slice(0, colon);
    // docker has padded passwords with zero bytes.
    password = text.slice(colon + 1).replace(/\0+$/, '');
  }
  if (entry.identitytoken) return { username, password, identityToken: entry.identitytoken };
  return username === '' ? undefined : { username, password };
}

function readConfig(): DockerConfig {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(dockerConfigFile(), 'utf8'));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return {};
    throw bad(messageOf(error), error);
  }
  if (!isRecord(value)) throw bad('it is no JSON object');
  const { auths = {}, credHelpers = {}, credsStore = '' } = value;
  const isText = (each: unknown) => typeof each === 'string';
  if (!isRecord(auths) || !Object.values(auths).every(isRecord)) throw bad('/auths is wrong');
  for (const [name, entry] of Object.entries(auths)) {
    for (const member of ['auth', 'username', 'password', 'identitytoken'] as const) {
      const text = (entry as Record<string, unknown>)[member];
      if (text !== undefined && !isText(text)) throw bad(`/auths/${name}/${member} is no text`);
    }
  }
  if (!isRecord(credHelpers) || !Object.values(credHelpers).every(isText)) {
    throw bad('/credHelpers is wrong');
  }
  if (!isText(credsStore)) throw bad('/credsStore is no text');
  return value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Replaces `auths`, and leaves all else as it is. Returns the file. */
async function writeAuths(auths: Record<string, AuthEntry>, config: DockerConfig): Promise<string> {
  let file = dockerConfigFile();
  const text = `${JSON.stringify({ ...config, auths }, null, '\t')}\n`;
  try {
    await fs.mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    try {
      file = realpathSync(file); // a link stays one
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
    const temporary = `${file}.${process.pid}.new`;
    await fs.writeFile(temporary, text, { mode: 0o600, flush: true });
    await fs.rename(temporary, file);
  } catch (error) {
    throw bad(messageOf(error), error);
  }
  return file;
}

/** Speaks with docker-credential-HELPER. Undefined: it has nothing for this registry. */
async function runHelper(
  helper: string,
  verb: 'get' | 'store' | 'erase',
  input: string,
): Promise<string | undefined> {
  if (!/^[A-Za-z0-9._-]+$/.test(helper)) {
    throw bad(`${JSON.stringify(helper)} is no name of a credential helper`);
  }
  const program = `docker-credential-${helper}`;
  try {
    const { stdout } = await execa(program, [verb], { input, stripFinalNewline: true });
    return stdout;
  } catch (error) {
    if (!(error instanceof ExecaError)) throw error;
    const said = `${String(error.stdout ?? '')} ${String(error.stderr ?? '')}`.trim();
    if (verb === 'get' && /credentials not found/i.test(said)) return undefined;
    const why = error.code === 'ENOENT' ? 'it is not installed' : said || error.shortMessage;
    throw new ImageError(
      'ERR_REGISTRY_CREDENTIALS',
      `the credential helper ${program}, which ${dockerConfigFile()} names, fails: ${why}`,
      { cause: error },
    );
  }
}

function parseHelperAnswer(helper: string, text: string): Credentials {
  let answer: { Username?: unknown; Secret?: unknown };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch {
    answer = {};
  }
  const { Username: username, Secret: secret } = answer ?? {};
  if (typeof username !== 'string' || typeof secret !== 'string') {
    throw new ImageError(
      'ERR_REGISTRY_CREDENTIALS',
      `the credential helper docker-credential-${helper} answers no JSON with Username and Secret`,
    );
  }
  if (username === TOKEN_USER) return { username: '', password: '', identityToken: secret };
  return { username, password: secret };
}

function bad(why: string, cause?: unknown): ImageError {
  return new ImageError(
    'ERR_REGISTRY_CONFIG',
    `cannot use ${dockerConfigFile()}: ${why}; it should be docker's configuration file`,
    { cause },
  );
}
