/** HTTP to one endpoint: TLS, proxies, redirects, and what failures mean. */
import { existsSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { rootCertificates } from 'node:tls';

import { EnvHttpProxyAgent, errors, interceptors, request, type Dispatcher } from 'undici';

import { errnoOf, messageOf } from '../../errors.js';
import { ImageError } from '../errors.js';
import { RegistryError } from './errors.js';
import type { Endpoint } from './settings.js';

const CONNECT_TIMEOUT = 15_000;
/** How long an answer, or its next byte, may take unless a caller says otherwise, ms. */
export const STALL_TIMEOUT = 60_000;
/** Times as long may the answer to an upload take. */
const SLOW_ANSWERS = 10;
/** Blobs are served by way of redirects to other hosts. */
const MAX_REDIRECTIONS = 5;
/** Bundles of the system's certificates: Debian's and Red Hat's. Node itself only knows Mozilla's. */
const SYSTEM_CERTIFICATES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
];

export interface RequestOptions {
  method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH';
  headers?: Record<string, string>;
  body?: string | Uint8Array | Readable;
}

export interface Response {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Dispatcher.ResponseData['body'];
}

export class Connection {
  readonly #agent: EnvHttpProxyAgent;
  readonly #redirecting: Dispatcher;
  /** Settled by the first answer, where the endpoint leaves a choice. */
  #scheme: 'https' | 'http' | undefined;

  constructor(
    readonly endpoint: Endpoint,
    readonly options: { signal?: AbortSignal | undefined; stallTimeout?: number | undefined },
  ) {
    const { verify, ca, cert, key } = endpoint;
    const tls = {
      rejectUnauthorized: verify,
      ...(verify ? { ca: trusted(ca) } : {}),
      ...(cert === undefined ? {} : { cert, key }),
    };
    const noProxy = process.env['no_proxy'] ?? process.env['NO_PROXY'] ?? '';
    this.#agent = new EnvHttpProxyAgent({
      connect: { ...tls, timeout: CONNECT_TIMEOUT },
      requestTls: { ...tls, timeout: CONNECT_TIMEOUT },
      // Programs in Go never send these through a proxy.
      noProxy: noProxy === '*' ? noProxy : `${noProxy},localhost,127.0.0.1,[::1]`,
    });
    this.#redirecting = this.#agent.compose(
      interceptors.redirect({ maxRedirections: MAX_REDIRECTIONS }),
    );
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  /** `https://host[:port]` as far as it is known. */
  get origin(): string {
    return `${this.#scheme ?? this.endpoint.schemes[0]}://${this.endpoint.host}`;
  }

  /**
   * Sends a request to the endpoint (by a path) or elsewhere (by a URL); any answer will do.
   *
   * @throws RegistryError ERR_REGISTRY_UNREACHABLE, ERR_REGISTRY_TLS; ImageError ERR_IMAGE_ABORTED
   */
  async send(target: string, options: RequestOptions = {}): Promise<Response> {
    const known = this.#scheme ? [this.#scheme] : this.endpoint.schemes;
    const urls = target.startsWith('/')
      ? known.map((scheme) => `${scheme}://${this.endpoint.host}${target}`)
      : [target];
    let failure: RegistryError | ImageError | undefined;
    for (const [i, url] of urls.entries()) {
      try {
        const response = await this.#send(url, options);
        if (target.startsWith('/')) this.#scheme ??= known[i];
        return response;
      } catch (error) {
        const next = this.#failure(error, url);
        if (next.code === 'ERR_IMAGE_ABORTED') throw next;
        // Of an endpoint that may speak either, the first failure says more, unless it was no TLS at all.
        failure = failure && !isNoTls(failure.cause) ? failure : next;
      }
    }
    throw failure ?? new RegistryError('ERR_REGISTRY_UNREACHABLE', 'nothing to connect to');
  }

  async #send(
    url: string,
    { method = 'GET', headers = {}, body }: RequestOptions,
  ): Promise<Response> {
    const { signal, stallTimeout = STALL_TIMEOUT } = this.options;
    const safe = method === 'GET' || method === 'HEAD';
    const { statusCode, ...response } = await request(url, {
      dispatcher: safe ? this.#redirecting : this.#agent,
      method,
      headers: { 'user-agent': 'clearvm', ...headers },
      body: body ?? null,
      // A registry hashes what it was sent before it answers.
      headersTimeout: safe ? stallTimeout : SLOW_ANSWERS * stallTimeout,
      bodyTimeout: stallTimeout,
      ...(signal ? { signal } : {}),
    });
    return { status: statusCode, headers: response.headers, body: response.body };
  }

  /** What a request, or the reading of its answer, fails with, as an error of ours. */
  failure(error: unknown): RegistryError | ImageError {
    return this.#failure(error, this.origin);
  }

  #failure(error: unknown, url: string): RegistryError | ImageError {
    if (error instanceof ImageError) return error;
    const { name } = this.endpoint;
    if (this.options.signal?.aborted) {
      return new ImageError('ERR_IMAGE_ABORTED', `the registry ${name}: aborted`, { cause: error });
    }
    const code = errnoOf(error);
    if (/CERT|SELF_SIGNED|UNABLE_TO_|ALTNAME/.test(code)) {
      return new RegistryError(
        'ERR_REGISTRY_TLS',
        `the certificate of the registry ${name} is not accepted: ${messageOf(error)}; name its CA, or the registry as insecure, in registries.json`,
        { cause: error },
      );
    }
    if (error instanceof errors.InvalidArgumentError) {
      const message = `the registry ${name} refers to ${JSON.stringify(url)}: ${messageOf(error)}`;
      return new RegistryError('ERR_REGISTRY_RESPONSE', message, { cause: error });
    }
    return new RegistryError(
      'ERR_REGISTRY_UNREACHABLE',
      `the registry ${name} cannot be reached, or breaks off: ${reasonOf(error)}; check its name and the network`,
      // A host that is not there will not be there in a second, unless it has been.
      {
        cause: error,
        transient: this.#scheme !== undefined || !/^E(CONNREFUSED|NOTFOUND)$/.test(code),
      },
    );
  }
}

/** "connect ECONNREFUSED ::1:5000, connect ECONNREFUSED 127.0.0.1:5000" of a name with several addresses. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join(', ');
  return messageOf(error);
}

/** Whether https met something that is not TLS. */
function isNoTls(error: unknown): boolean {
  const code = errnoOf(error);
  return code === 'EPROTO' || code.startsWith('ERR_SSL_') || code === 'ECONNRESET';
}

function trusted(own: string[]): string[] {
  const system = SYSTEM_CERTIFICATES.filter(existsSync).map((file) => readFileSync(file, 'utf8'));
  return [...rootCertificates, ...system, ...own];
}
