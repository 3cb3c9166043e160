// Pulls over connections that break, from registries that fail, of content that is wrong.
import fs from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { ImageErrorCode } from '../../../../src/image/index.js';
import { blobFile, failure, largestBlob, layout, sha256, tar, temporary } from '../fixtures.js';
import {
  big,
  bigBlob,
  expectImage,
  expectNothing,
  pull,
  registry,
  small,
  source,
  store,
} from './setup.js';

describe('a connection that breaks', () => {
  test('is resumed where it broke', async () => {
    registry.serveLayout(source, 'app');
    const bytes = fs.readFileSync(largestBlob(source));
    const arrived = (): number => {
      const name = path.basename(largestBlob(source));
      const files = fs.readdirSync(store.root, { recursive: true, encoding: 'utf8' });
      const file = files.find((each) => path.basename(each) === name);
      return file === undefined ? 0 : fs.statSync(path.join(store.root, file)).size;
    };
    registry.hook = (request, response) => {
      if (!request.url?.endsWith(bigBlob())) return false;
      const start = Number(/\d+/.exec(request.headers.range ?? '')?.[0] ?? 0);
      const [code, range] = start > 0 ? [206, `bytes ${start}-${bytes.length - 1}/*`] : [200];
      response.writeHead(code ?? 0, {
        'content-length': bytes.length - start,
        ...(range ? { 'content-range': range } : {}),
      });
      // More breaks than tries without progress are allowed.
      response.write(bytes.subarray(start, start + 340_000));
      if (start + 340_000 >= bytes.length) response.end();
      else {
        // What is on its way would be lost with the connection.
        const wait = setInterval(() => {
          if (arrived() < start + 340_000) return;
          clearInterval(wait);
          response.destroy();
        }, 1);
      }
      return true;
    };
    await pull('app', { pause: 1, retries: 1 });
    await expectImage();
    const ranges = registry.requests
      .filter(({ line }) => line.endsWith(bigBlob()))
      .map(({ headers }) => headers.range);
    expect(ranges).toEqual([undefined, 'bytes=340000-', 'bytes=680000-']);
  });

  test.each<[string, (start: number, bytes: Buffer) => [number, Record<string, string>, Buffer]]>([
    ['answers with all of it', (_start, bytes) => [200, {}, bytes]],
    [
      'answers with another part',
      (_start, bytes) => [206, { 'content-range': 'bytes 7-/*' }, bytes],
    ],
    ['does not say which part', (start, bytes) => [206, {}, bytes.subarray(start)]],
    ['refuses the range', () => [416, {}, Buffer.from('')]],
  ])('and a server that then %s', async (_, answer) => {
    registry.serveLayout(source, 'app');
    const bytes = fs.readFileSync(largestBlob(source));
    let broken = false;
    registry.hook = (request, response) => {
      if (!request.url?.endsWith(bigBlob())) return false;
      if (!broken) {
        broken = true;
        response.writeHead(200, { 'content-length': bytes.length });
        response.write(bytes.subarray(0, 300_000), () => response.destroy());
        return true;
      }
      const start = Number(/\d+/.exec(request.headers.range ?? '')?.[0] ?? 0);
      if (start === 0) return false;
      const [status, headers, body] = answer(start, bytes);
      response.writeHead(status, headers).end(body);
      return true;
    };
    await pull();
    await expectImage();
  });

  test('too often ends the pull; what came whole is kept, and used by the next', async () => {
    registry.serveLayout(source, 'app');
    const bytes = fs.readFileSync(largestBlob(source));
    let broken = true;
    registry.hook = (request, response) => {
      if (!broken || !request.url?.endsWith(bigBlob())) return false;
      response.writeHead(200, { 'content-length': bytes.length });
      // The other layer has time to be finished.
      setTimeout(() => response.write(bytes.subarray(0, 200_000), () => response.destroy()), 700);
      return true;
    };
    const error = await failure(pull('app', { retries: 1, pause: 1 }), 'ERR_REGISTRY_UNREACHABLE');
    expect(error.message).toContain(registry.host);
    expect(await store.list()).toEqual([]);
    expect(fs.readdirSync(path.join(store.root, 'tmp'))).toEqual([]);
    broken = false;
    registry.requests.length = 0;
    // A removal in between does not take it away.
    await store.load(layout(path.join(temporary(), 'x'), [tar([{ name: 'x' }])], { name: 'x:1' }));
    await store.remove('x:1');
    await pull();
    await expectImage();
    const blobs = registry.requests.filter(({ line }) => line.includes('/blobs/'));
    expect(blobs).toHaveLength(1);
    expect(blobs[0]?.headers.range).toMatch(/^bytes=1\d{5}-$|^bytes=200000-$/);
  });

  test.each([
    ['a prune', () => store.prune()],
    [
      'the next change of the store after a week',
      async () => {
        const [pull = ''] = fs.readdirSync(path.join(store.root, 'pulls'));
        const record = path.join(store.root, 'pulls', pull, 'pull.json');
        const weekAgo = Date.now() / 1000 - 7 * 86_400;
        const other = layout(path.join(temporary(), 'x'), [tar([{ name: 'x' }])], { name: 'x:1' });
        fs.utimesSync(record, weekAgo + 600, weekAgo + 600);
        await store.load(other);
        await store.remove('x:1');
        expect(fs.readdirSync(path.join(store.root, 'layers'))).toHaveLength(1);
        fs.utimesSync(record, weekAgo - 600, weekAgo - 600);
        await store.load(other);
        await store.remove('x:1');
      },
    ],
  ])('what was kept goes with %s', async (_, change) => {
    registry.serveLayout(source, 'app');
    registry.hook = (request, response) => {
      if (!request.url?.endsWith(bigBlob())) return false;
      setTimeout(() => response.destroy(), 700);
      return true;
    };
    await failure(pull('app', { retries: 0 }), 'ERR_REGISTRY_UNREACHABLE');
    expect(fs.readdirSync(path.join(store.root, 'layers'))).toHaveLength(1);
    await change();
    expectNothing();
  });

  test('or stalls, is given up and tried again', async () => {
    registry.serveLayout(source, 'app');
    registry.hook = (request, response, seen) => {
      if (seen > 0) return false;
      if (request.url?.includes('/manifests/')) return true; // no answer at all
      if (!request.url?.endsWith(bigBlob())) return false;
      response.writeHead(200, { 'content-length': 600_000 });
      response.write('half');
      return true;
    };
    await pull('app', { pause: 1, stallTimeout: 1000 });
    await expectImage();
    expect(registry.count(/manifests/)).toBe(2);
  });
});

describe('a registry that fails', () => {
  test.each([
    [500, 'ERR_REGISTRY_RESPONSE'],
    [503, 'ERR_REGISTRY_RESPONSE'],
    [429, 'ERR_REGISTRY_RATE_LIMIT'],
  ] as const)('with %i is asked again, and not for ever', async (status, code) => {
    registry.serveLayout(source, 'app');
    registry.hook = (_request, response, seen) => {
      if (seen >= 2) return false;
      response.writeHead(status).end();
      return true;
    };
    await pull();
    await expectImage();
    registry.hook = (_request, response) => {
      response.writeHead(status).end();
      return true;
    };
    registry.requests.length = 0;
    await failure(pull('other', { retries: 2, pause: 1 }), code);
    expect(registry.requests).toHaveLength(3);
  });

  test('is left alone for as long as it says', async () => {
    registry.serveLayout(source, 'app');
    registry.hook = (request, response, seen) => {
      if (seen > 0 || !request.url?.includes('/manifests/')) return false;
      response.writeHead(429, { 'retry-after': '1' }).end();
      return true;
    };
    const start = performance.now();
    await pull();
    expect(performance.now() - start).toBeGreaterThan(990);
  });

  test.each([
    [
      'nothing there',
      404,
      undefined,
      'ERR_REGISTRY_NOT_FOUND',
      /manifest for .*app:latest not found: manifest unknown/,
    ],
    [
      'no login',
      401,
      'Basic realm="x"',
      'ERR_REGISTRY_UNAUTHORIZED',
      /pull access denied for .*clearvm login/,
    ],
    [
      'a challenge that nobody knows',
      401,
      'Negotiate',
      'ERR_REGISTRY_UNAUTHORIZED',
      /pull access denied/,
    ],
    [
      'no token server',
      401,
      'Bearer realm="gopher://x"',
      'ERR_REGISTRY_RESPONSE',
      /names no token server/,
    ],
    [
      'forbidden',
      403,
      undefined,
      'ERR_REGISTRY_DENIED',
      /pull access denied for .*app, repository does not exist/,
    ],
  ] as const)('for good (%s) is asked once', async (_, status, challenge, code, message) => {
    registry.hook = (request, response) => {
      if (status === 404) return false;
      response.writeHead(status, challenge ? { 'www-authenticate': challenge } : {}).end();
      return true;
    };
    expect((await failure(pull(), code)).message).toMatch(message);
    expect(registry.requests).toHaveLength(1);
    expect(fs.existsSync(store.root)).toBe(false);
  });

  test('whose words would write on the terminal is quoted without them', async () => {
    registry.hook = (_request, response) => {
      response.writeHead(403).end('{"errors":[{"code":"DENIED","message":"a\\u001b[2J\\nb"}]}');
      return true;
    };
    expect((await failure(pull(), 'ERR_REGISTRY_DENIED')).message).toMatch(/denied: a \[2J b/);
  });

  test('that is not there is not waited for', async () => {
    const { host } = registry;
    await registry.stop();
    const error = await failure(store.pull(`${host}/app`), 'ERR_REGISTRY_UNREACHABLE');
    expect(error.message).toContain('ECONNREFUSED');
    expect(fs.existsSync(store.root)).toBe(false);
  });
});

describe('content that is wrong', () => {
  const type = 'application/vnd.oci.image.manifest.v1+json';
  const indexType = 'application/vnd.oci.image.index.v1+json';

  test('once only is fetched again', async () => {
    registry.serveLayout(source, 'app');
    registry.hook = (request, response, seen) => {
      if (seen > 0) return false;
      const { bytes } = registry.content.get(request.url ?? '') ?? { bytes: Buffer.alloc(0) };
      const wrong = Buffer.from(bytes);
      wrong[wrong.length >> 1]! ^= 0x20;
      const digest = request.url?.includes('/manifests/') ? sha256(bytes) : '';
      response.writeHead(200, { 'docker-content-digest': digest, 'content-type': type }).end(wrong);
      return true;
    };
    await pull();
    await expectImage();
  });

  test.each<[string, (blob: string, bytes: Buffer) => Buffer, ImageErrorCode, RegExp]>([
    [
      'corrupt',
      (_blob, bytes) => Buffer.concat([bytes.subarray(0, -1), Buffer.from('!')]),
      'ERR_IMAGE_DIGEST_MISMATCH',
      /came as sha256/,
    ],
    [
      'too long',
      (_blob, bytes) => Buffer.concat([bytes, Buffer.from('!')]),
      'ERR_REGISTRY_RESPONSE',
      /more than the \d+ bytes/,
    ],
    ['too short', (_blob, bytes) => bytes.subarray(0, -1), 'ERR_REGISTRY_RESPONSE', /ended after/],
  ])('again and again (%s) ends the pull', async (_, change, code, message) => {
    registry.serveLayout(source, 'app');
    const key = `/v2/app/blobs/${bigBlob()}`;
    const { bytes } = registry.content.get(key)!;
    registry.hook = (request, response) => {
      if (request.url !== key) return false;
      response.end(
        change(key, bytes).subarray(Number(/\d+/.exec(request.headers.range ?? '')?.[0] ?? 0)),
      );
      return true;
    };
    expect((await failure(pull('app', { retries: 1, pause: 1 }), code)).message).toMatch(message);
    expect(await store.list()).toEqual([]);
    await store.prune();
    expectNothing();
  });

  test('that has the digests it claims leaves nothing', async () => {
    // The layer is not what the config says it is.
    const bad = layout(path.join(temporary(), 'bad'), [small, big], {
      config: (config) => ({
        ...config,
        rootfs: { type: 'layers', diff_ids: [sha256(small), sha256(Buffer.from('x'))] },
      }),
    });
    registry.serveLayout(bad, 'app');
    await failure(pull(), 'ERR_IMAGE_DIGEST_MISMATCH');
    expectNothing();
  });

  test.each<[string, string, object | Buffer, ImageErrorCode]>([
    ['no JSON', type, Buffer.from('<html>'), 'ERR_IMAGE_MANIFEST'],
    ['no manifest', type, { schemaVersion: 2 }, 'ERR_IMAGE_MANIFEST'],
    ['an empty index', indexType, { schemaVersion: 2, manifests: [] }, 'ERR_IMAGE_PLATFORM'],
    [
      'an index of others',
      indexType,
      {
        schemaVersion: 2,
        manifests: [
          {
            mediaType: type,
            digest: sha256(small),
            size: 1,
            platform: { os: 'linux', architecture: 'arm64' },
          },
        ],
      },
      'ERR_IMAGE_PLATFORM',
    ],
    [
      'schema 1',
      'application/vnd.docker.distribution.manifest.v1+prettyjws',
      { schemaVersion: 1 },
      'ERR_IMAGE_MANIFEST',
    ],
    ['a web page', 'text/html', Buffer.from('<html>'), 'ERR_IMAGE_MANIFEST'],
    [
      'a chart',
      type,
      {
        schemaVersion: 2,
        config: {
          mediaType: 'application/vnd.cncf.helm.config.v1+json',
          digest: sha256(small),
          size: 1,
        },
        layers: [],
      },
      'ERR_IMAGE_PLATFORM',
    ],
    ['five megabytes', type, Buffer.alloc(5 << 20, ' '), 'ERR_REGISTRY_RESPONSE'],
    [
      'a config of a gigabyte',
      type,
      {
        schemaVersion: 2,
        config: {
          mediaType: 'application/vnd.oci.image.config.v1+json',
          digest: sha256(small),
          size: 1e9,
        },
        layers: [],
      },
      'ERR_IMAGE_CONFIG',
    ],
  ])('%s is refused', async (_, mediaType, content, code) => {
    registry.serveManifest('app', 'latest', mediaType, content);
    await failure(pull(), code);
    expectNothing();
  });

  test.each<[string, (config: Record<string, unknown>) => unknown, ImageErrorCode]>([
    ['another platform', (config) => ({ ...config, architecture: 'arm64' }), 'ERR_IMAGE_PLATFORM'],
    [
      'fewer layers',
      (config) => ({ ...config, rootfs: { type: 'layers', diff_ids: [sha256(small)] } }),
      'ERR_IMAGE_CONFIG',
    ],
    ['no layers at all', (config) => ({ ...config, rootfs: 7 }), 'ERR_IMAGE_CONFIG'],
  ])('a config of %s is refused', async (_, config, code) => {
    registry.serveLayout(layout(path.join(temporary(), 'bad'), [small, big], { config }), 'app');
    await failure(pull(), code);
    expectNothing();
  });

  test('an image that passes another’s layer off as its own is found out', async () => {
    registry.serveLayout(source, 'app');
    await pull();
    // The blob of one layer, which the store has, under the diff id of another, which it has too.
    const bad = layout(path.join(temporary(), 'bad'), [big, big], {
      config: (config) => ({
        ...config,
        rootfs: { type: 'layers', diff_ids: [sha256(big), sha256(small)] },
      }),
    });
    registry.serveLayout(bad, 'bad');
    await failure(pull('bad'), 'ERR_IMAGE_DIGEST_MISMATCH');
    await expectImage();
  });

  test('a layer for a config is not read', async () => {
    registry.serveLayout(source, 'app');
    await pull();
    const bad = layout(path.join(temporary(), 'bad'), [small], {
      manifest: (manifest) => ({
        ...manifest,
        config: { ...(manifest.config as object), digest: bigBlob() },
      }),
    });
    registry.serveLayout(bad, 'bad');
    await failure(pull('bad', { retries: 0 }), 'ERR_REGISTRY_NOT_FOUND');
    await store.prune();
    await expectImage();
  });

  test('a layer that leads outside leaves nothing', async () => {
    const evil = layout(path.join(temporary(), 'evil'), [small, tar([{ name: '../evil' }])]);
    registry.serveLayout(evil, 'app');
    await failure(pull(), 'ERR_LAYER_PATH_ESCAPE');
    expectNothing();
  });

  test.each<[string, number, ImageErrorCode]>([
    ['no layers', 0, 'ERR_IMAGE_CONFIG'],
    ['128 layers', 128, 'ERR_IMAGE_TOO_MANY_LAYERS'],
  ])('an image of %s is refused before one is fetched', async (_, count, code) => {
    const layers = Array.from({ length: count }, (_, i) => tar([{ name: `file-${i}` }]));
    registry.serveLayout(layout(path.join(temporary(), 'many'), layers), 'app');
    await failure(pull(), code);
    expect(registry.count(/blobs/)).toBe(1);
    expectNothing();
  });

  test('a manifest that lies about sizes is found out', async () => {
    const lying = layout(path.join(temporary(), 'lying'), [small], {
      manifest: (manifest) => {
        const [layer] = manifest.layers as { size: number }[];
        return { ...manifest, layers: [{ ...layer, size: layer!.size - 1 }] };
      },
    });
    registry.serveLayout(lying, 'app');
    await failure(pull('app', { retries: 1, pause: 1 }), 'ERR_REGISTRY_RESPONSE');
    expect(fs.statSync(blobFile(lying, sha256(gzipSync(small)))).size).toBeGreaterThan(0);
    await store.prune();
    expectNothing();
  });
});
