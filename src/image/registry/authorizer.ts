/** Who we are to a registry: basic authentication, and docker's tokens (distribution's auth/token and auth/oauth). */
import { parseChallenges, type Challenge } from './challenge.js';
import type { Connection, Response } from './connection.js';
import type { Credentials } from './credentials.js';
import { RegistryError } from './errors.js';
import { readBounded, unauthorized } from './responses.js';

const TOKEN_LIMIT = 1 << 20;

export class Authorizer {
  readonly #connection: Connection;
  readonly #find: () => Promise<Credentials | undefined>;
  #credentials: Promise<Credentials | undefined> | undefined;
  #header: string | undefined;

  /** `find` is asked once, and only when the registry asks. */
  constructor(connection: Connection, find: () => Promise<Credentials | undefined>) {
    this.#connection = connection;
    this.#find = find;
  }

  /** For the Authorization header of the next request. */
  get header(): string | undefined {
    return this.#header;
  }

  /**
   * Does what a 401 asks for.
   *
   * @param scopes what will be done, as in `repository:library/debian:pull`
   * @param used the Authorization header that was not enough
   * @returns whether there is another header to try with
   * @throws RegistryError ERR_REGISTRY_*; ImageError ERR_REGISTRY_CONFIG, ERR_REGISTRY_CREDENTIALS
   */
  async answer(response: Response, scopes: string[], used: string | undefined): Promise<boolean> {
    // Another request, sent at the same time, has been answered already.
    if (this.#header !== used) return true;
    const challenges = parseChallenges(response.headers['www-authenticate']);
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    const basic = challenges.find(({ scheme }) => scheme === 'basic');
    const credentials = await (this.#credentials ??= this.#find());
    if (bearer) {
      this.#header = `Bearer ${await this.#fetchToken(bearer, scopes, credentials)}`;
    } else if (basic && credentials && !credentials.identityToken) {
      this.#header = basicHeader(credentials);
    }
    return this.#header !== used;
  }

  async #fetchToken(
    { parameters }: Challenge,
    scopes: string[],
    credentials: Credentials | undefined,
  ): Promise<string> {
    const { name } = this.#connection.endpoint;
    const url = this.#realm(parameters['realm'] ?? '', credentials !== undefined);
    const { service } = parameters;
    // The registry knows best which scope it wants; ours may add to it, for a mount.
    const asked = parameters['scope'];
    const all = new Set([...(asked ? [asked] : []), ...scopes]);
    let response: Response;
    if (credentials?.identityToken) {
      const form = new URLSearchParams({
        grant_type: 'refresh_token',
        client_id: 'clearvm',
        refresh_token: credentials.identityToken,
        scope: [...all].join(' '),
        ...(service === undefined ? {} : { service }),
      });
      response = await this.#connection.send(url.href, {
        method: 'POST',
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
        body: form.toString(),
      });
    } else {
      if (service !== undefined) url.searchParams.set('service', service);
      for (const scope of all) url.searchParams.append('scope', scope);
      if (credentials) url.searchParams.set('account', credentials.username);
      response = await this.#connection.send(url.href, {
        headers: credentials ? { authorization: basicHeader(credentials) } : {},
      });
    }
    if (response.status === 401 || response.status === 403) {
      await response.body.dump();
      throw unauthorized(name, credentials !== undefined);
    }
    if (response.status !== 200) {
      await response.body.dump();
      throw new RegistryError(
        'ERR_REGISTRY_RESPONSE',
        `the token server of the registry ${name} answers ${response.status}; try again later`,
        { transient: response.status >= 500 || response.status === 429 },
      );
    }
    const bytes = await readBounded(this.#connection, response, TOKEN_LIMIT);
    const token = tokenIn(bytes);
    if (token === undefined) {
      throw new RegistryError(
        'ERR_REGISTRY_RESPONSE',
        `the token server of the registry ${name} answers without a token`,
      );
    }
    return token;
  }

  #realm(text: string, secret: boolean): URL {
    const { name, verify } = this.#connection.endpoint;
    const url = URL.canParse(text) ? new URL(text) : undefined;
    if (url?.protocol !== 'https:' && url?.protocol !== 'http:') {
      const message = `the registry ${name} names no token server, but ${JSON.stringify(text)}`;
      throw new RegistryError('ERR_REGISTRY_RESPONSE', message);
    }
    // A registry that must have a certificate cannot have the password sent to somebody in the clear.
    if (url.protocol === 'http:' && verify && secret) {
      throw new RegistryError(
        'ERR_REGISTRY_TLS',
        `the registry ${name} wants the login sent unencrypted, to ${url.origin}; name the registry as insecure if that is right`,
      );
    }
    return url;
  }
}

function basicHeader({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

function tokenIn(bytes: Buffer): string | undefined {
  try {
    const answer = JSON.parse(bytes.toString()) as { token?: unknown; access_token?: unknown };
    const token = answer.token || answer.access_token;
    return typeof token === 'string' && /^[\x21-\x7e]+$/.test(token) ? token : undefined;
  } catch {
    return undefined;
  }
}
