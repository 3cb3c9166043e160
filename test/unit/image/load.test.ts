import fs from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';

import { beforeAll, afterAll, describe, expect, test } from 'vitest';

import { ImageStore, type ImageProgress } from '../../../src/image/index.js';
import {
  expectEmptyStore,
  failure,
  layout,
  run,
  sha256,
  snapshot,
  tar,
  temporary,
  withOverlay,
} from './fixtures.js';

// One real image, made by umoci, in every form that skopeo and tar give it.
let work = '';
const at = (name: string) => path.join(work, name);

beforeAll(() => {
  work = fs.mkdtempSync('/tmp/clearvm-load-');
  fs.mkdirSync(at('bin'));
  fs.copyFileSync('/bin/busybox', at('bin/busybox'));
  fs.chmodSync(at('bin/busybox'), 0o755);
  for (const applet of ['sh', 'echo', 'cat']) fs.symlinkSync('busybox', at(`bin/${applet}`));
  fs.mkdirSync(at('etc'));
  fs.writeFileSync(at('etc/hostname'), 'busybox\n');
  const image = `${at('bb')}:v1`;
  run('umoci', 'init', '--layout', at('bb'));
  run('umoci', 'new', '--image', image);
  run('umoci', 'insert', '--image', image, at('bin'), '/bin');
  run('umoci', 'insert', '--image', image, at('etc'), '/etc');
  run('umoci', 'insert', '--image', image, '--whiteout', '/etc/hostname');
  run('umoci', 'config', '--image', image, '--config.cmd', '/bin/sh', '--config.env', 'A=b c');
  const copy = (...args: string[]) => run('skopeo', 'copy', '-q', ...args);
  copy(`oci:${image}`, `docker-archive:${at('docker.tar')}:example.com/busybox:1.0`);
  copy(`oci:${image}`, `oci-archive:${at('oci.tar')}:busybox:2.0`);
  copy('--dest-compress-format', 'zstd', `oci:${image}`, `oci:${at('zstd')}:v3`);
  run('tar', '-C', at('bb'), '-cf', at('layout.tar'), '.');
  run('gzip', '--keep', at('docker.tar'));
  run('zstd', '-q', at('docker.tar'));
  run('xz', '-0', '--keep', at('docker.tar'));
  run('bzip2', '-1', '--keep', at('docker.tar'));
}, 120_000);

afterAll(() => fs.rmSync(work, { recursive: true, force: true }));

function newStore(): ImageStore {
  return new ImageStore({ root: path.join(temporary(), 'store') });
}

describe('load', () => {
  test.each([
    ['bb', 'bb:v1'],
    ['layout.tar', 'layout:v1'],
    ['oci.tar', 'busybox:2.0'],
    ['zstd', 'zstd:v3'],
    ['docker.tar', 'example.com/busybox:1.0'],
    ['docker.tar.gz', 'example.com/busybox:1.0'],
    ['docker.tar.zst', 'example.com/busybox:1.0'],
    ['docker.tar.xz', 'example.com/busybox:1.0'],
    ['docker.tar.bz2', 'example.com/busybox:1.0'],
  ])('%s as %s', async (file, name) => {
    const store = newStore();
    const [image, ...more] = await store.load(at(file));
    expect(more).toEqual([]);
    expect(image).toMatchObject({ names: [name], os: 'linux', architecture: 'amd64' });
    const bundle = path.join(temporary(), 'bundle');
    run('umoci', 'unpack', '--image', `${at('bb')}:v1`, bundle);
    const resolved = await store.resolve(name);
    expect(resolved.id).toBe(image?.id);
    expect(resolved.config.config).toMatchObject({ Cmd: ['/bin/sh'], Env: ['A=b c'] });
    expect(resolved.lower).toHaveLength(3);
    for (const layer of resolved.lower) expect(layer).toMatch(/^[a-z2-7]{26}$/);
    const tree = (root: string) =>
      Object.entries(snapshot(root)).map(([file, line]) => [file, line.replace(/ \d{19}/, '')]);
    const merged = await withOverlay(resolved.layersDir, resolved.lower, tree);
    expect(merged).toEqual(tree(path.join(bundle, 'rootfs')));
    // The store is a layout that other tools can read.
    const digest = run('skopeo', 'inspect', '--raw', `oci:${store.root}/images`);
    expect(sha256(Buffer.from(digest))).toBe(image?.digest);
  });

  test('every form has the same id and the same unpacked layers', async () => {
    const store = newStore();
    for (const file of ['bb', 'oci.tar', 'docker.tar.gz', 'zstd', 'layout.tar']) {
      await store.load(at(file));
    }
    const [image, ...more] = await store.list();
    expect(more).toEqual([]);
    expect(image?.names).toEqual(
      ['bb:v1', 'busybox:2.0', 'example.com/busybox:1.0', 'layout:v1', 'zstd:v3'].sort(),
    );
    expect(fs.readdirSync(path.join(store.root, 'layers'))).toHaveLength(3);
  });

  test('from a stream, by a name of its own', async () => {
    const store = newStore();
    const images = await store.load(fs.createReadStream(at('oci.tar')), { name: 'mine' });
    expect(images.map((image) => image.names)).toEqual([['mine:latest']]);
    await failure(store.resolve('busybox:2.0'), 'ERR_IMAGE_NOT_FOUND');
    await failure(store.load(at('bb'), { name: 'Mine' }), 'ERR_IMAGE_REFERENCE');
    await failure(
      store.load(at('bb'), { name: `a@sha256:${'0'.repeat(64)}` }),
      'ERR_IMAGE_REFERENCE',
    );
  });

  test('of an OCI layout keeps the manifest as it came', async () => {
    const store = newStore();
    await store.load(at('bb'));
    const details = await store.inspect('bb:v1');
    const manifest = run('skopeo', 'inspect', '--raw', `oci:${at('bb')}:v1`);
    expect(details.digest).toBe(sha256(Buffer.from(manifest)));
    expect(details.manifest).toEqual(JSON.parse(manifest));
    expect(details.references).toEqual(['docker.io/library/bb:v1']);
    for (const layer of details.layers) {
      expect(fs.statSync(layer.path).isDirectory()).toBe(true);
      const blob = path.join(store.root, 'images/blobs/sha256', layer.blob.slice(7));
      expect(fs.statSync(blob).size).toBe(layer.blobSize);
    }
  });

  test('reports progress up to the end of every step', async () => {
    const heard: ImageProgress[] = [];
    const root = path.join(temporary(), 'store');
    const store = new ImageStore({ root, onProgress: (progress) => heard.push(progress) });
    await store.load(at('docker.tar'));
    const finished = heard.filter((progress) => progress.finished);
    expect(finished.map(({ step }) => step)).toEqual([
      'read',
      'unpack',
      'unpack',
      'unpack',
      'sync',
    ]);
    expect(finished[0]).toMatchObject({ done: fs.statSync(at('docker.tar')).size });
    for (const { done, total } of finished) expect(done).toBe(total ?? 0);
  });

  test('is aborted by a signal, and leaves nothing', async () => {
    const store = newStore();
    const controller = new AbortController();
    const loading = store.load(at('docker.tar'), {
      signal: controller.signal,
      onProgress: ({ step }) => {
        if (step === 'unpack') controller.abort();
      },
    });
    await failure(loading, 'ERR_IMAGE_ABORTED');
    expectEmptyStore(store.root);
    await failure(store.load(at('bb'), { signal: AbortSignal.abort() }), 'ERR_IMAGE_ABORTED');
  });
});

describe('docker save', () => {
  const layers = [
    tar([
      { name: 'etc/', type: '5' },
      { name: 'etc/one', data: '1' },
    ]),
    tar([{ name: 'etc/two', data: '2' }]),
    tar([{ name: 'etc/three', data: '3' }]),
  ];
  const config = (count: number) =>
    Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        config: { Cmd: [`count-${count}`] },
        rootfs: { type: 'layers', diff_ids: layers.slice(0, count).map(sha256) },
      }),
    );
  const hex = (bytes: Buffer) => sha256(bytes).slice('sha256:'.length);

  test('before version 25: several images that share layers by symbolic links', async () => {
    const archive = at('old.tar');
    const [first, second, third] = layers as [Buffer, Buffer, Buffer];
    fs.writeFileSync(
      archive,
      tar([
        { name: 'aaa/', type: '5' },
        { name: 'aaa/VERSION', data: '1.0' },
        { name: 'aaa/layer.tar', data: first },
        { name: 'bbb/layer.tar', data: second },
        { name: 'ccc/layer.tar', type: '2', link: '../aaa/layer.tar' },
        { name: 'ddd/layer.tar', type: '1', link: 'bbb/layer.tar' },
        { name: 'eee/layer.tar', data: gzipSync(third) },
        { name: `${hex(config(2))}.json`, data: config(2) },
        { name: `${hex(config(3))}.json`, data: config(3) },
        {
          name: 'manifest.json',
          data: JSON.stringify([
            {
              Config: `${hex(config(2))}.json`,
              RepoTags: ['two:latest', 'localhost:5000/two:x'],
              Layers: ['aaa/layer.tar', 'bbb/layer.tar'],
            },
            {
              Config: `${hex(config(3))}.json`,
              RepoTags: null,
              Layers: ['ccc/layer.tar', 'ddd/layer.tar', 'eee/layer.tar'],
            },
          ]),
        },
        { name: 'repositories', data: '{}' },
      ]),
    );
    const store = newStore();
    const images = await store.load(archive);
    expect(images.map(({ id, names }) => [id, names])).toEqual([
      [sha256(config(2)), ['localhost:5000/two:x', 'two:latest']],
      [sha256(config(3)), []],
    ]);
    expect(fs.readdirSync(path.join(store.root, 'layers'))).toHaveLength(3);
    const resolved = await store.resolve(sha256(config(3)).slice(7, 19));
    const names = await withOverlay(resolved.layersDir, resolved.lower, (merged) =>
      fs.readdirSync(path.join(merged, 'etc')),
    );
    expect(names.sort()).toEqual(['one', 'three', 'two']);
    await failure(newStore().load(archive, { name: 'x' }), 'ERR_IMAGE_REFERENCE');
  });

  test('since version 25: an OCI layout that also has a manifest.json', async () => {
    const directory = layout(path.join(temporary(), 'saved'), layers.slice(0, 2), {
      name: 'latest', // Docker writes the tag alone, and the full name into an annotation of containerd's
      compress: (layer) => layer,
      config: () => config(2).toString(),
    });
    const index = path.join(directory, 'index.json');
    const value = JSON.parse(fs.readFileSync(index, 'utf8')) as {
      manifests: { annotations: Record<string, string> }[];
    };
    const [descriptor] = value.manifests;
    if (descriptor) {
      descriptor.annotations['io.containerd.image.name'] = 'docker.io/library/saved-as:latest';
    }
    fs.writeFileSync(index, JSON.stringify(value));
    fs.writeFileSync(
      path.join(directory, 'manifest.json'),
      JSON.stringify([
        {
          Config: `blobs/sha256/${hex(config(2))}`,
          RepoTags: ['saved-as:latest', 'second:name'],
          Layers: layers.slice(0, 2).map((layer) => `blobs/sha256/${hex(layer)}`),
        },
      ]),
    );
    run('tar', '-C', directory, '-cf', at('new.tar'), '.');
    const store = newStore();
    const images = await store.load(at('new.tar'));
    expect(images.map(({ names }) => names)).toEqual([['saved-as:latest', 'second:name']]);
    fs.rmSync(path.join(directory, 'oci-layout')); // now only manifest.json counts
    const again = newStore();
    expect(await again.load(directory)).toMatchObject([
      { id: images[0]?.id, names: ['saved-as:latest', 'second:name'] },
    ]);
  });

  test('a config that is not what its name says', async () => {
    const archive = at('wrong.tar');
    const entry = { Config: `${'0'.repeat(64)}.json`, RepoTags: [], Layers: [] };
    fs.writeFileSync(
      archive,
      tar([
        { name: entry.Config, data: config(0) },
        { name: 'manifest.json', data: JSON.stringify([entry]) },
      ]),
    );
    await failure(newStore().load(archive), 'ERR_IMAGE_DIGEST_MISMATCH');
  });

  test('an image without layers, and a layer in xz', async () => {
    const archive = at('none.tar');
    const entry = { Config: 'c.json', RepoTags: [], Layers: [] as string[] };
    fs.writeFileSync(
      archive,
      tar([
        { name: 'c.json', data: config(0) },
        { name: 'manifest.json', data: JSON.stringify([entry]) },
      ]),
    );
    await failure(newStore().load(archive), 'ERR_IMAGE_CONFIG');
    fs.writeFileSync(at('layer'), layers[0] ?? '');
    run('xz', '--keep', '--force', at('layer'));
    entry.Layers = ['layer.tar'];
    fs.writeFileSync(
      archive,
      tar([
        { name: 'c.json', data: config(1) },
        { name: 'layer.tar', data: fs.readFileSync(at('layer.xz')) },
        { name: 'manifest.json', data: JSON.stringify([entry]) },
      ]),
    );
    const store = newStore();
    await failure(store.load(archive), 'ERR_LAYER_FORMAT');
    expectEmptyStore(store.root);
  });
});

describe('an index of several platforms', () => {
  test('gives the image for linux/amd64, and tells when there is none', async () => {
    const directory = layout(path.join(temporary(), 'multi'), [tar([{ name: 'amd64' }])]);
    layout(directory, [tar([{ name: 'arm64' }])], {
      config: (config) => ({ ...config, architecture: 'arm64' }),
    });
    const file = path.join(directory, 'index.json');
    const manifests = (
      JSON.parse(fs.readFileSync(file, 'utf8')) as { manifests: { digest: string }[] }
    ).manifests;
    const [amd64, arm64] = manifests;
    const attestation = { ...amd64, platform: { os: 'unknown', architecture: 'unknown' } };
    const missing = { ...arm64, digest: sha256(Buffer.from('not here')) };
    const nest = (children: unknown[], depth: number): object => {
      const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: children }));
      fs.writeFileSync(path.join(directory, 'blobs/sha256', sha256(bytes).slice(7)), bytes);
      const descriptor = {
        mediaType: 'application/vnd.oci.image.index.v1+json',
        digest: sha256(bytes),
        size: bytes.length,
        annotations: { 'org.opencontainers.image.ref.name': 'example.com/multi:1' },
      };
      return depth > 1 ? nest([descriptor], depth - 1) : descriptor;
    };
    const write = (entry: object) =>
      fs.writeFileSync(file, JSON.stringify({ schemaVersion: 2, manifests: [entry] }));

    const platform = { os: 'linux', architecture: 'arm64' };
    write(nest([attestation, missing, { ...arm64, platform }, amd64], 2));
    const [image] = await newStore().load(directory);
    expect(image).toMatchObject({ digest: amd64?.digest, names: ['example.com/multi:1'] });

    write(nest([{ ...arm64, platform }, attestation], 1));
    const error = await failure(newStore().load(directory), 'ERR_IMAGE_PLATFORM');
    expect(error.message).toContain('linux/amd64');
    write(nest([arm64], 1)); // only its config tells
    await failure(newStore().load(directory), 'ERR_IMAGE_PLATFORM');
    write(nest([amd64], 6));
    await failure(newStore().load(directory), 'ERR_IMAGE_ARCHIVE_FORMAT');
  });
});

describe('import', () => {
  test.each(['', 'gzip', 'zstd', 'xz', 'bzip2'])('a root tarball %s', async (compressor) => {
    const directory = temporary();
    const file = path.join(directory, 'root.tar');
    run('tar', '-C', work, '-cf', file, 'bin', 'etc');
    const bytes = fs.readFileSync(file);
    if (compressor !== '') run(compressor, file);
    const source = fs.readdirSync(directory).sort().at(-1) ?? ''; // zstd keeps the original
    const store = newStore();
    const image = await store.import(path.join(directory, source), {
      name: 'root:1',
      changes: ['CMD ["/bin/sh"]', 'ENV A=1', 'WORKDIR /etc'],
      config: { User: '5' },
      message: 'made by hand',
    });
    expect(image).toMatchObject({ names: ['root:1'], size: bytes.length });
    const details = await store.inspect('root:1');
    expect(details.config).toMatchObject({
      architecture: 'amd64',
      os: 'linux',
      config: { Cmd: ['/bin/sh'], Env: ['A=1'], WorkingDir: '/etc', User: '5' },
      rootfs: { type: 'layers', diff_ids: [sha256(bytes)] },
      history: [{ comment: 'made by hand' }],
    });
    const kept = ['gzip', 'zstd'].includes(compressor) ? `+${compressor}` : '';
    expect(details.layers[0]?.mediaType).toBe(`application/vnd.oci.image.layer.v1.tar${kept}`);
    const unpacked = temporary();
    run('tar', '-C', unpacked, '-xpf', path.join(directory, source));
    expect(snapshot(details.layers[0]?.path ?? '')).toEqual(snapshot(unpacked));
  });

  test('from a stream, without a name', async () => {
    const file = path.join(temporary(), 'root.tar');
    run('tar', '-C', work, '-cf', file, 'etc');
    const image = await newStore().import(fs.createReadStream(file));
    expect(image.names).toEqual([]);
  });

  test('refuses what it cannot use, and leaves nothing', async () => {
    const store = newStore();
    const file = path.join(temporary(), 'root.tar');
    fs.writeFileSync(file, tar([{ name: 'a' }]));
    await failure(store.import(work), 'ERR_IMAGE_SOURCE');
    await failure(store.import('/nowhere'), 'ERR_IMAGE_SOURCE');
    await failure(store.import(file, { name: 'A' }), 'ERR_IMAGE_REFERENCE');
    await failure(store.import(file, { changes: ['RUN x'] }), 'ERR_IMAGE_CHANGE');
    await failure(store.import(file, { config: { Env: ['=x'] } }), 'ERR_IMAGE_CONFIG');
    expectEmptyStore(store.root);
  });
});
