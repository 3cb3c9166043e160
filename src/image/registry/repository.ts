/** One repository of a registry, as the distribution specification has it. */
import { isDigest, sha256 } from '../digest.js';
import type { ImageError } from '../errors.js';
import type { Digest } from '../types.js';
import { Authorizer } from './authorizer.js';
import { Connection, type RequestOptions, type Response } from './connection.js';
import { findCredentials } from './credentials.js';
import { RegistryError } from './errors.js';
import { headerOf, readBounded, refusal } from './responses.js';
import { withRetries, type RetryOptions } from './retry.js';
import type { Endpoint } from './settings.js';

/** docker's and containerd's limit for a manifest. */
const MANIFEST_LIMIT = 4 << 20;
/** A token may have expired, and one for another scope may be in use. */
const LOGIN_ATTEMPTS = 2;

const ACCEPTED = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
].join(', ');

export interface TransferOptions extends RetryOptions {
  /** How long an answer, or its next byte, may take: ms, 60000 unless given. */
  stallTimeout?: number | undefined;
}

export interface FetchedManifest {
  digest: Digest;
  mediaType: string;
  bytes: Buffer;
}

export class Repository {
  readonly connection: Connection;
  readonly #authorizer: Authorizer;
  readonly #scopes: string[];
  #loggedIn = false;

  /**
   * @param path `library/debian`
   * @param actions `pull`, or `pull,push`
   */
  constructor(
    endpoint: Endpoint,
    readonly path: string,
    actions: string,
    readonly options: TransferOptions,
  ) {
    this.connection = new Connection(endpoint, options);
    this.#authorizer = new Authorizer(this.connection, async () => {
      const found = await findCredentials(endpoint.name);
      this.#loggedIn = found !== undefined;
      return found;
    });
    this.#scopes = [`repository:${path}:${actions}`];
  }

  /** What messages call it: `docker.io/library/debian`. */
  get name(): string {
    return `${this.connection.endpoint.name}/${this.path}`;
  }

  close(): Promise<void> {
    return this.connection.close();
  }

  /** Tokens will be for this as well. */
  addScope(scope: string): void {
    if (!this.#scopes.includes(scope)) this.#scopes.push(scope);
  }

  /**
   * Fetches a manifest or index, and checks its digest.
   *
   * @param reference a tag or a digest
   * @param name what messages call the image
   * @throws ImageError ERR_REGISTRY_*, ERR_IMAGE_DIGEST_MISMATCH, ERR_IMAGE_ABORTED
   */
  manifest(reference: string, name: string): Promise<FetchedManifest> {
    return withRetries(async () => {
      const response = await this.send(`manifests/${reference}`, { headers: { accept: ACCEPTED } });
      if (response.status !== 200) throw await this.refusal(response, `manifest for ${name}`);
      const bytes = await readBounded(this.connection, response, MANIFEST_LIMIT);
      const digest = sha256(bytes);
      const announced = isDigest(reference)
        ? reference
        : headerOf(response, 'docker-content-digest');
      if (isDigest(announced) && announced !== digest) {
        throw new RegistryError(
          'ERR_IMAGE_DIGEST_MISMATCH',
          `the manifest for ${name} has digest ${digest}, it should be ${announced}; try again`,
          { transient: true },
        );
      }
      return { digest, bytes, mediaType: mediaTypeOf(response, bytes) };
    }, this.options);
  }

  /**
   * Sends a request below /v2/<path>/ (or to a URL that the registry gave), logged in where it is asked for.
   * `body` makes the body of each attempt.
   */
  async send(
    target: string,
    options: Omit<RequestOptions, 'body'> & {
      body?: () => NonNullable<RequestOptions['body']>;
    } = {},
  ): Promise<Response> {
    const { body, headers, ...rest } = options;
    const url = /^https?:/.test(target) ? target : `/v2/${this.path}/${target}`;
    for (let attempt = 0; ; attempt++) {
      // Elsewhere the URL itself is the permission.
      const own = url.startsWith('/') || new URL(url).host === this.connection.endpoint.host;
      const authorization = own ? this.#authorizer.header : undefined;
      const response = await this.connection.send(url, {
        ...rest,
        headers: { ...headers, ...(authorization === undefined ? {} : { authorization }) },
        ...(body ? { body: body() } : {}),
      });
      if (response.status !== 401 || attempt >= LOGIN_ATTEMPTS) return response;
      if (!(await this.#authorizer.answer(response, this.#scopes, authorization))) return response;
      await response.body.dump();
    }
  }

  /** The error for an answer that was not wanted. */
  async refusal(response: Response, what: string): Promise<ImageError> {
    return refusal(this.connection, response, what, this.#loggedIn);
  }
}

/** The document says it itself, or the header does. */
function mediaTypeOf(response: Response, bytes: Buffer): string {
  try {
    const { mediaType } = JSON.parse(bytes.toString()) as { mediaType?: unknown };
    if (typeof mediaType === 'string') return mediaType;
  } catch {
    // Whoever parses it says what is wrong with it.
  }
  return (headerOf(response, 'content-type') ?? '').replace(/\s*;.*$/, '');
}
