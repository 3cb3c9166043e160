import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { ImageStore } from '../../../../src/image/index.js';
import { failure, layout, run, sha256, tar, temporary } from '../fixtures.js';
import { FakeRegistry } from './server.js';
import {
  FAST,
  bigBlob,
  expectImage,
  expectNothing,
  pull,
  registry,
  small,
  source,
  store,
} from './setup.js';

describe('a pull', () => {
  test('fetches each thing once, and nothing the second time', async () => {
    const digest = registry.serveLayout(source, 'app');
    const first = await pull();
    expect(first).toMatchObject({
      digest,
      changed: true,
      reference: `${registry.host}/app:latest`,
    });
    expect(first.image.repositoryDigests).toEqual([`${registry.host}/app@${digest}`]);
    await expectImage();
    expect(registry.count(/blobs/)).toBe(3);
    expect(await pull()).toMatchObject({ digest, changed: false, image: first.image });
    expect(registry.count(/blobs/)).toBe(3);
  });

  test('by digest names the image so', async () => {
    const digest = registry.serveLayout(source, 'app');
    const { reference, image } = await pull(`app@${digest}`);
    expect(reference).toBe(`${registry.host}/app@${digest}`);
    expect(image.names).toEqual([`${registry.host}/app@${digest}`]);
    expect((await store.resolve(`${registry.host}/app@${digest}`)).id).toBe(image.id);
    await failure(store.resolve(`${registry.host}/app`), 'ERR_IMAGE_NOT_FOUND');
  });

  test('takes the image for linux/amd64 out of an index, and knows it by the index’s digest', async () => {
    const manifest = registry.serveLayout(source, 'app', 'amd64');
    const size = registry.content.get('/v2/app/manifests/amd64')?.bytes.length;
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const other = { mediaType, size, digest: sha256(Buffer.from('other')) };
    const digest = registry.serveManifest(
      'app',
      'latest',
      'application/vnd.oci.image.index.v1+json',
      {
        schemaVersion: 2,
        manifests: [
          { ...other, platform: { os: 'linux', architecture: 'arm64' } },
          { ...other, platform: { os: 'linux', architecture: 'amd64', variant: 'v3' } },
          { mediaType, digest: manifest, size, platform: { os: 'linux', architecture: 'amd64' } },
          { ...other, platform: { os: 'unknown', architecture: 'unknown' } },
        ],
      },
    );
    expect(await pull()).toMatchObject({ digest, image: { digest: manifest } });
    await expectImage();
    expect((await store.resolve(`${registry.host}/app@${digest}`)).digest).toBe(manifest);
    expect((await store.resolve(`${registry.host}/app:1@${manifest}`)).digest).toBe(manifest);
  });

  test('leaves what the store has of an image, and takes over a name that has moved', async () => {
    registry.serveLayout(source, 'app');
    const { image } = await pull();
    const other = layout(path.join(temporary(), 'other'), [small, tar([{ name: 'more' }])]);
    registry.serveLayout(other, 'app');
    registry.requests.length = 0;
    const moved = await pull();
    expect(moved.changed).toBe(true);
    expect(registry.count(/blobs/)).toBe(2); // the config and one layer
    expect((await store.resolve(image.id)).lower).toHaveLength(2);
    expect((await store.list()).map(({ id, names }) => [id, names])).toEqual([
      [moved.image.id, [`${registry.host}/app:latest`]],
      [image.id, []],
    ]);
  });

  test('follows redirects without taking the login along', async () => {
    fs.writeFileSync(
      path.join(process.env['DOCKER_CONFIG'] ?? '', 'config.json'),
      JSON.stringify({ auths: { [registry.host]: { auth: btoa('user:secret') } } }),
    );
    const storage = await FakeRegistry.start();
    registry.serveLayout(source, 'app');
    storage.serveLayout(source, 'app');
    registry.hook = (request, response) => {
      if (request.headers.authorization === undefined) {
        response.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end();
        return true;
      }
      if (!request.url?.includes('/blobs/')) return false;
      response.writeHead(307, { location: `http://${storage.host}${request.url}` }).end();
      return true;
    };
    await pull();
    await expectImage();
    expect(storage.count(/blobs/)).toBe(3);
    for (const { headers } of storage.requests) expect(headers.authorization).toBeUndefined();
    expect(registry.requests.at(-1)?.headers.authorization).toBe(`Basic ${btoa('user:secret')}`);
  });
});

test('an aborted pull says so, and keeps what is whole', async () => {
  registry.serveLayout(source, 'app');
  const aborter = new AbortController();
  registry.hook = (request) => {
    if (!request.url?.endsWith(bigBlob())) return false;
    setTimeout(() => aborter.abort(), 700);
    return true; // and no answer
  };
  await failure(pull('app', { signal: aborter.signal }), 'ERR_IMAGE_ABORTED');
  expect(await store.list()).toEqual([]);
  registry.hook = () => false;
  registry.requests.length = 0;
  await pull();
  await expectImage();
  expect(registry.count(/blobs/)).toBe(1);
});

test('a full disk is told as such, and freed', async () => {
  registry.serveLayout(source, 'app');
  const disk = temporary();
  run('mount', '-t', 'tmpfs', '-o', 'size=1m', 'small', disk);
  try {
    const onDisk = new ImageStore({ root: path.join(disk, 'store') });
    await failure(onDisk.pull(`${registry.host}/app`, FAST), 'ERR_IMAGE_NO_SPACE');
    expectNothing(onDisk.root);
  } finally {
    run('umount', disk);
  }
});

test('two pulls at once fetch everything once, and both have it', async () => {
  registry.serveLayout(source, 'app');
  registry.hook = (request, response, seen) => {
    if (seen > 0 || !request.url?.endsWith(bigBlob())) return false;
    setTimeout(() => registry.serve(request, response), 500);
    return true;
  };
  const steps: string[] = [];
  const second = new ImageStore({ root: store.root });
  const [one, two] = await Promise.all([
    pull(),
    second.pull(`${registry.host}/app`, { ...FAST, onProgress: ({ step }) => steps.push(step) }),
  ]);
  expect([one?.changed, two?.changed]).toEqual([true, true]);
  await expectImage();
  expect(registry.count(/blobs/)).toBe(3);
});

test('mirrors come first, and the registry when they fail', async () => {
  const mirror = await FakeRegistry.start();
  const file = path.join(process.env['XDG_CONFIG_HOME'] ?? '', 'clearvm/registries.json');
  fs.mkdirSync(path.dirname(file));
  const registries = { [registry.host]: { mirrors: [`http://${mirror.host}`] } };
  fs.writeFileSync(file, JSON.stringify({ version: 1, registries }));
  registry.serveLayout(source, 'app');
  await pull(); // the mirror does not have it
  await expectImage();
  expect(mirror.count(/manifests/)).toBe(1);

  registry.requests.length = 0;
  mirror.serveLayout(source, 'other');
  await pull('other');
  expect(registry.requests).toEqual([]);
  await expectImage('other');

  // A mirror that breaks in the middle.
  const more = layout(path.join(temporary(), 'more'), [tar([{ name: 'more' }])]);
  registry.serveLayout(more, 'third');
  mirror.serveLayout(more, 'third');
  const { config } = JSON.parse(
    registry.content.get('/v2/third/manifests/latest')!.bytes.toString(),
  ) as { config: { digest: string } };
  mirror.hook = (request, response) => {
    if (!request.url?.includes('/blobs/') || request.url.endsWith(config.digest)) return false;
    response.destroy();
    return true;
  };
  await pull('third', { retries: 1, pause: 1 });
  expect((await store.resolve(`${registry.host}/third`)).lower).toHaveLength(1);

  // docker.io itself cannot be reached here.
  fs.writeFileSync(
    file,
    JSON.stringify({
      version: 1,
      registries: { 'docker.io': { mirrors: [`http://${registry.host}`] } },
    }),
  );
  registry.serveLayout(source, 'library/debian', '12');
  expect((await store.pull('debian:12')).image.names).toContain('debian:12');
});

test.each([
  ['{', /JSON/],
  ['{"version":2,"registries":{}}', /version/],
  ['{"version":1,"registries":{"a b":{}}}', /registries/],
  ['{"version":1,"registries":{"a":{"insecure":"yes"}}}', /insecure/],
  ['{"version":1,"registries":{"a":{"mirrors":["mirror"]}}}', /mirrors/],
  ['{"version":1,"registries":{"a":{"mirrors":["https://user:secret@mirror"]}}}', /mirrors/],
  ['{"version":1,"registries":{"a":{"frob":1}}}', /additional/],
])('registries.json %s is refused', async (text, message) => {
  const file = path.join(process.env['XDG_CONFIG_HOME'] ?? '', 'clearvm/registries.json');
  fs.mkdirSync(path.dirname(file));
  fs.writeFileSync(file, text);
  const error = await failure(pull(), 'ERR_REGISTRY_CONFIG');
  expect(error.message).toContain(file);
  expect(error.message).toMatch(message);
  expect(registry.requests).toEqual([]);
});
