/** Logging in to registries, and out. */
import { registryName } from '../reference.js';
import type { LoginOptions } from '../types.js';
import { Authorizer } from './authorizer.js';
import { Connection } from './connection.js';
import { eraseCredentials, storeCredentials, type Credentials } from './credentials.js';
import { headerOf, refusal, unauthorized } from './responses.js';
import { withRetries } from './retry.js';
import { endpointsOf } from './settings.js';
import { RegistryError } from './errors.js';

/**
 * Checks a login with a registry, and keeps it where docker would: with a credential helper, or in config.json.
 *
 * @returns the file that holds the password unencrypted, or undefined where a helper took it
 * @throws ImageError ERR_REGISTRY_UNAUTHORIZED, ERR_REGISTRY_*, ERR_IMAGE_ABORTED
 */
export async function loginToRegistry(options: LoginOptions): Promise<string | undefined> {
  const registry = registryName(options.registry);
  const credentials: Credentials = { username: options.username, password: options.password };
  const endpoint = endpointsOf(registry).at(-1);
  if (!endpoint) throw new Error('unreachable: a registry is its own last endpoint');
  const connection = new Connection(endpoint, options);
  const authorizer = new Authorizer(connection, () => Promise.resolve(credentials));
  const ask = async (authorization?: string) =>
    connection.send('/v2/', authorization === undefined ? {} : { headers: { authorization } });
  try {
    await withRetries(async () => {
      let response = await ask();
      if (response.status === 401 && (await authorizer.answer(response, [], undefined))) {
        await response.body.dump();
        response = await ask(authorizer.header);
      }
      if (response.status === 401) {
        await response.body.dump();
        throw unauthorized(registry, true);
      }
      const isRegistry = headerOf(response, 'docker-distribution-api-version') !== undefined;
      if (response.status === 404 && !isRegistry) {
        await response.body.dump();
        const message = `${registry} is no registry: it answers 404 to /v2/; check its name`;
        throw new RegistryError('ERR_REGISTRY_RESPONSE', message);
      }
      if (response.status !== 200) {
        throw await refusal(connection, response, `the login to ${registry}`, true);
      }
      await response.body.dump();
    }, options);
  } finally {
    await connection.close();
  }
  return storeCredentials(registry, credentials);
}

/**
 * Forgets the login for a registry (`docker.io` unless given).
 *
 * @returns whether there was one
 * @throws ImageError ERR_REGISTRY_CONFIG, ERR_REGISTRY_CREDENTIALS
 */
export async function logoutOfRegistry(registry?: string): Promise<boolean> {
  return eraseCredentials(registryName(registry));
}
