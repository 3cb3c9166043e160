import fs from 'node:fs';
import path from 'node:path';

import { beforeEach, describe, expect, test, vi } from 'vitest';

import { ImageStore } from '../../../../src/image/index.js';
import { parseChallenges } from '../../../../src/image/registry/challenge.js';
import {
  eraseCredentials,
  findCredentials,
  storeCredentials,
} from '../../../../src/image/registry/credentials.js';
import { failure, temporary } from '../fixtures.js';
import { FakeRegistry } from './server.js';

describe('WWW-Authenticate', () => {
  test.each([
    [undefined, []],
    ['', []],
    ['Basic realm="a, b=\\"c\\""', [['basic', { realm: 'a, b="c"' }]]],
    [
      'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
      [
        [
          'bearer',
          {
            realm: 'https://auth.docker.io/token',
            service: 'registry.docker.io',
            scope: 'repository:a/b:pull,push',
          },
        ],
      ],
    ],
    [
      'Negotiate, bearer REALM = "x" , error=invalid_token,Basic realm=y',
      [
        ['negotiate', {}],
        ['bearer', { realm: 'x', error: 'invalid_token' }],
        ['basic', { realm: 'y' }],
      ],
    ],
    [
      ['Bearer realm="x"', 'Basic realm="y"'],
      [
        ['bearer', { realm: 'x' }],
        ['basic', { realm: 'y' }],
      ],
    ],
    ['Bearer realm="never ends', [['bearer', {}]]],
    ['=,"', []],
    [`Bearer ${'a="b",'.repeat(20_000)}`, [['bearer', { a: 'b' }]]],
  ])('%j', (header, expected) => {
    expect(parseChallenges(header).map(({ scheme, parameters }) => [scheme, parameters])).toEqual(
      expected,
    );
  });
});

describe('docker’s config.json', () => {
  let directory: string;
  let file: string;
  beforeEach(() => {
    directory = temporary();
    file = path.join(directory, 'config.json');
    vi.stubEnv('DOCKER_CONFIG', directory);
  });
  const write = (config: unknown) => fs.writeFileSync(file, JSON.stringify(config));
  const read = () => JSON.parse(fs.readFileSync(file, 'utf8')) as Record<string, unknown>;
  const auth = (text: string) => Buffer.from(text).toString('base64');

  /** A credential helper that keeps what it is given in a file. */
  function helper(name: string): void {
    const program = path.join(directory, `docker-credential-${name}`);
    fs.writeFileSync(
      program,
      `#!/bin/sh
cd ${directory}
case $1 in
store) cat > ${name}.kept ;;
get) read -r url; echo "$url" >> ${name}.asked
  [ -e ${name}.kept ] || { echo "credentials not found in native keychain"; exit 1; }
  cat ${name}.kept ;;
erase) rm ${name}.kept ;;
esac`,
      { mode: 0o755 },
    );
    vi.stubEnv('PATH', `${directory}:${process.env['PATH'] ?? ''}`);
  }

  test.each([
    ['registry.lan:5000', 'registry.lan:5000', { auth: auth('me:se:cret') }],
    ['registry.lan', 'https://registry.lan/v2/', { auth: auth('me:se:cret') }],
    ['docker.io', 'https://index.docker.io/v1/', { auth: auth('me:se:cret\0\0') }],
    ['registry.lan', 'registry.lan', { username: 'me', password: 'se:cret' }],
  ])('%s is found under %s', async (registry, key, entry) => {
    write({ auths: { other: { auth: auth('x:y') }, [key]: entry } });
    expect(await findCredentials(registry)).toEqual({ username: 'me', password: 'se:cret' });
    expect(await findCredentials('elsewhere')).toBeUndefined();
  });

  test('nothing is found where there is nothing', async () => {
    expect(await findCredentials('a')).toBeUndefined();
    write({ auths: { a: {} } });
    expect(await findCredentials('a')).toBeUndefined();
    expect(await eraseCredentials('b')).toBe(false);
  });

  test('a login is added, and nothing else changed; it is nobody else’s to read', async () => {
    write({ HttpHeaders: { a: 'b' }, auths: { other: { auth: 'eDp5', email: 'x' } } });
    fs.chmodSync(file, 0o644);
    fs.renameSync(file, path.join(directory, 'real.json'));
    fs.symlinkSync('real.json', file);
    expect(await storeCredentials('docker.io', { username: 'me', password: 'pä:ss' })).toBe(
      path.join(directory, 'real.json'),
    );
    expect(read()).toEqual({
      HttpHeaders: { a: 'b' },
      auths: {
        other: { auth: 'eDp5', email: 'x' },
        'https://index.docker.io/v1/': { auth: auth('me:pä:ss') },
      },
    });
    expect(fs.lstatSync(file).isSymbolicLink()).toBe(true);
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
    expect(await findCredentials('docker.io')).toEqual({ username: 'me', password: 'pä:ss' });
    expect(await eraseCredentials('docker.io')).toBe(true);
    expect(Object.keys(read()['auths'] as object)).toEqual(['other']);
    expect(fs.readdirSync(directory).sort()).toEqual(['config.json', 'real.json']);
  });

  test('helpers keep logins: credHelpers before credsStore before auths', async () => {
    helper('one');
    helper('two');
    const auths = { 'b.lan': { auth: auth('file:file') } };
    write({ credHelpers: { 'a.lan': 'one' }, credsStore: 'two', auths });
    expect(await storeCredentials('a.lan', { username: 'a', password: '1' })).toBeUndefined();
    expect(await storeCredentials('c.lan', { username: 'c', password: '2' })).toBeUndefined();
    expect(JSON.stringify(read())).not.toMatch(/"1"|"2"|auth":"(?!ZmlsZTpmaWxl)/);
    expect(await findCredentials('a.lan')).toEqual({ username: 'a', password: '1' });
    expect(await findCredentials('c.lan')).toEqual({ username: 'c', password: '2' });
    fs.rmSync(path.join(directory, 'two.kept'));
    expect(await findCredentials('b.lan')).toEqual({ username: 'file', password: 'file' });
    expect(fs.readFileSync(path.join(directory, 'one.asked'), 'utf8')).toBe('a.lan\n');
    expect(await eraseCredentials('a.lan')).toBe(true);
    expect(fs.existsSync(path.join(directory, 'one.kept'))).toBe(false);
  });

  test('a helper’s token is one', async () => {
    helper('one');
    write({ credsStore: 'one' });
    fs.writeFileSync(path.join(directory, 'one.kept'), '{"Username":"<token>","Secret":"T"}');
    expect(await findCredentials('a')).toMatchObject({ identityToken: 'T' });
  });

  test.each([
    [
      'a helper that is not there',
      { credsStore: 'missing' },
      'ERR_REGISTRY_CREDENTIALS',
      /docker-credential-missing.*not installed/,
    ],
    [
      'a path for a helper',
      { credsStore: '../evil' },
      'ERR_REGISTRY_CONFIG',
      /no name of a credential helper/,
    ],
    ['auths that are none', { auths: 7 }, 'ERR_REGISTRY_CONFIG', /\/auths/],
    [
      'an auth that is none',
      { auths: { a: { auth: 7 } } },
      'ERR_REGISTRY_CONFIG',
      /\/auths\/a\/auth/,
    ],
    [
      'an auth without a colon',
      { auths: { a: { auth: 'YQ==' } } },
      'ERR_REGISTRY_CONFIG',
      /USER:PASSWORD/,
    ],
    ['a list', [], 'ERR_REGISTRY_CONFIG', /no JSON object/],
  ] as const)('%s is told', async (_, config, code, message) => {
    write(config);
    expect((await failure(findCredentials('a'), code)).message).toMatch(message);
  });

  test('a helper that says nonsense is told', async () => {
    helper('one');
    write({ credsStore: 'one' });
    fs.writeFileSync(path.join(directory, 'one.kept'), '{"Username":7}');
    await failure(findCredentials('a'), 'ERR_REGISTRY_CREDENTIALS');
  });
});

describe('login', () => {
  let registry: FakeRegistry;
  const store = new ImageStore({ root: '/no/such/store' });
  const directory = () => process.env['DOCKER_CONFIG'] ?? '';
  beforeEach(async () => {
    vi.stubEnv('DOCKER_CONFIG', temporary());
    vi.stubEnv('XDG_CONFIG_HOME', temporary());
    registry = await FakeRegistry.start();
  });
  const login = () =>
    store.login({ registry: `http://${registry.host}/`, username: 'me', password: 'secret' });
  const basic = `Basic ${btoa('me:secret')}`;

  test('by token: the server gets the password, the registry the token', async () => {
    registry.hook = (request, response) => {
      const url = new URL(request.url ?? '', 'http://x');
      const { authorization } = request.headers;
      if (url.pathname === '/token') {
        const right = authorization === basic && url.searchParams.get('service') === 'test';
        response.writeHead(right ? 200 : 401).end('{"access_token":"T.T"}');
      } else if (authorization === 'Bearer T.T') response.writeHead(200).end('{}');
      else {
        const challenge = `Bearer realm="http://${registry.host}/token",service="test"`;
        response.writeHead(401, { 'www-authenticate': challenge }).end();
      }
      return true;
    };
    expect(await login()).toBe(path.join(directory(), 'config.json'));
    expect(await findCredentials(registry.host)).toEqual({ username: 'me', password: 'secret' });
    expect(registry.requests.map(({ headers }) => headers.authorization)).toEqual([
      undefined,
      basic,
      'Bearer T.T',
    ]);
  });

  test.each([
    ['refused', 401, 'Basic realm="x"', 'ERR_REGISTRY_UNAUTHORIZED'],
    ['no registry', 404, undefined, 'ERR_REGISTRY_RESPONSE'],
    ['forbidden', 403, undefined, 'ERR_REGISTRY_DENIED'],
  ] as const)('%s keeps nothing', async (_, status, challenge, code) => {
    registry.hook = (_request, response) => {
      response.writeHead(status, challenge ? { 'www-authenticate': challenge } : {}).end();
      return true;
    };
    await failure(login(), code);
    expect(fs.readdirSync(directory())).toEqual([]);
  });

  test('an identity token is exchanged, not sent along', async () => {
    fs.writeFileSync(
      path.join(directory(), 'config.json'),
      JSON.stringify({ auths: { [registry.host]: { identitytoken: 'REFRESH' } } }),
    );
    const forms: string[] = [];
    registry.hook = (request, response) => {
      if (request.url === '/token') {
        request.setEncoding('utf8').on('data', (text: string) => forms.push(text));
        request.on('end', () => response.end('{"access_token":"T"}'));
      } else if (request.headers.authorization === 'Bearer T') return false;
      else {
        const challenge = `Bearer realm="http://${registry.host}/token",service="test"`;
        response.writeHead(401, { 'www-authenticate': challenge }).end();
      }
      return true;
    };
    await failure(store.pull(`${registry.host}/app`), 'ERR_REGISTRY_NOT_FOUND');
    expect(Object.fromEntries(new URLSearchParams(forms.join('')))).toEqual({
      grant_type: 'refresh_token',
      client_id: 'clearvm',
      refresh_token: 'REFRESH',
      service: 'test',
      scope: 'repository:app:pull',
    });
    expect(JSON.stringify(registry.requests)).not.toContain('REFRESH');
  });

  test('a registry with a certificate cannot have the password sent in the clear', async () => {
    const { Authorizer } = await import('../../../../src/image/registry/authorizer.js');
    const { Connection } = await import('../../../../src/image/registry/connection.js');
    const connection = new Connection(
      { name: 'a', host: 'a', schemes: ['https'], verify: true, ca: [], mirror: false },
      {},
    );
    const authorizer = new Authorizer(connection, () =>
      Promise.resolve({ username: 'me', password: 'secret' }),
    );
    const response = { headers: { 'www-authenticate': `Bearer realm="http://${registry.host}/"` } };
    await failure(
      authorizer.answer({ ...response, status: 401, body: undefined as never }, [], undefined),
      'ERR_REGISTRY_TLS',
    );
    expect(registry.requests).toEqual([]);
  });
});
