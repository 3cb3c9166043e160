/** What a registry's answers mean (distribution-spec, "Error Codes"). */
import type { Connection, Response } from './connection.js';
import { RegistryError } from './errors.js';

const ERROR_LIMIT = 64 << 10;
/** A registry may say how long to wait; not longer than this, ms. */
const LONGEST_PAUSE = 60_000;

/**
 * Reads a body of at most `limit` bytes.
 *
 * @throws RegistryError ERR_REGISTRY_RESPONSE, ERR_REGISTRY_UNREACHABLE
 */
export async function readBounded(
  connection: Connection,
  { body }: Response,
  limit: number,
): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) {
        throw new RegistryError(
          'ERR_REGISTRY_RESPONSE',
          `the registry ${connection.endpoint.name} answers with more than ${limit} bytes where some KiB are due`,
        );
      }
      chunks.push(chunk);
    }
  } catch (error) {
    throw connection.failure(error);
  }
  return Buffer.concat(chunks);
}

/** The first value of a header. */
export function headerOf({ headers }: Response, name: string): string | undefined {
  return [headers[name] ?? []].flat()[0];
}

/**
 * The error that an answer other than the wanted one stands for. Its body is read, or thrown away.
 *
 * @param what what was asked for, at the start of a sentence
 * @param loggedIn whether there were credentials
 */
export async function refusal(
  connection: Connection,
  response: Response,
  what: string,
  loggedIn: boolean,
): Promise<RegistryError> {
  const { name } = connection.endpoint;
  const { status } = response;
  const said = await explanation(connection, response);
  const why = said ?? `the registry ${name} answers ${status}`;
  switch (status) {
    case 401:
      return unauthorized(name, loggedIn);
    case 403:
      return new RegistryError('ERR_REGISTRY_DENIED', `${what}: access denied: ${why}`);
    case 404:
      return new RegistryError('ERR_REGISTRY_NOT_FOUND', `${what} not found: ${why}`);
    case 429:
      return new RegistryError(
        'ERR_REGISTRY_RATE_LIMIT',
        `${what}: the registry ${name} has had too many requests: ${why}; wait, or log in with "clearvm login"`,
        { transient: true, retryAfter: pauseOf(response) },
      );
    default:
      return new RegistryError('ERR_REGISTRY_RESPONSE', `${what}: ${why}`, {
        transient: status >= 500 || status === 408,
        retryAfter: pauseOf(response),
      });
  }
}

/** What a 401 means, after a login or without one. */
export function unauthorized(registry: string, hadCredentials: boolean): RegistryError {
  return new RegistryError(
    'ERR_REGISTRY_UNAUTHORIZED',
    hadCredentials
      ? `unauthorized: the registry ${registry} does not accept the login; log in anew with "clearvm login ${registry}"`
      : `unauthorized: the registry ${registry} wants a login; use "clearvm login ${registry}"`,
  );
}

/** "manifest unknown: manifest unknown", as docker words the body of an error. */
async function explanation(
  connection: Connection,
  response: Response,
): Promise<string | undefined> {
  let value: unknown;
  try {
    value = JSON.parse((await readBounded(connection, response, ERROR_LIMIT)).toString());
  } catch {
    return undefined;
  }
  const [first] = (value as { errors?: unknown[] } | null)?.errors ?? [];
  const { code, message } = (first ?? {}) as { code?: unknown; message?: unknown };
  if (typeof code !== 'string') return undefined;
  const text = code.toLowerCase().replaceAll('_', ' ');
  return printable(typeof message === 'string' ? `${text}: ${message}` : text);
}

/** A registry's words, fit for a terminal and for one line. */
function printable(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]+/g, ' ').slice(0, 500);
}

function pauseOf(response: Response): number | undefined {
  const text = headerOf(response, 'retry-after');
  if (text === undefined) return undefined;
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return ms > 0 ? Math.min(ms, LONGEST_PAUSE) : undefined;
}
