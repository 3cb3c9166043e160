import fs from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';

import { describe, expect, test } from 'vitest';

import { ImageStore } from '../../../src/image/index.js';
import {
  blobFile,
  expectEmptyStore,
  failure,
  largestBlob,
  layout,
  run,
  sha256,
  snapshot,
  tar,
  temporary,
  type Member,
} from './fixtures.js';

function newStore(): ImageStore {
  return new ImageStore({ root: path.join(temporary(), 'store') });
}

/** A directory with a file that no layer may reach or change. */
function victim(): string {
  const directory = path.join(temporary(), 'victim');
  fs.mkdirSync(directory);
  fs.writeFileSync(path.join(directory, 'secret'), 'untouched');
  return directory;
}

describe('a layer that reaches outside', () => {
  const cases: [string, (outside: string) => Member[]][] = [
    ['a name with ..', () => [{ name: '../escaped', data: 'x' }]],
    ['a name with .. inside', () => [{ name: 'a/../../escaped', data: 'x' }]],
    ['a name that is ..', () => [{ name: '..', type: '5' }]],
    ['an absolute name', (outside) => [{ name: `${outside}/new`, data: 'x' }]],
    [
      'a long name with .. in a PAX header',
      () => [{ name: 'innocent', data: 'x', pax: { path: `${'a/'.repeat(80)}../../escaped` } }],
    ],
    [
      'a file through an absolute symbolic link',
      (outside) => [
        { name: 'a', type: '2', link: outside },
        { name: 'a/secret', data: 'changed' },
      ],
    ],
    [
      'a file through a relative symbolic link',
      () => [
        { name: 'a', type: '2', link: '../../../..' },
        { name: 'a/tmp/escaped', data: 'x' },
      ],
    ],
    [
      'a directory through a symbolic link',
      (outside) => [
        { name: 'a', type: '2', link: outside },
        { name: 'a/new/', type: '5' },
      ],
    ],
    [
      'a device through a symbolic link',
      (outside) => [
        { name: 'a', type: '2', link: outside },
        { name: 'a/null', type: '3', device: [1, 3] },
      ],
    ],
    [
      'a file through two links that are harmless by themselves',
      () => [
        { name: 'x/', type: '5' },
        { name: 'x/y', type: '2', link: '.' },
        { name: 'x/y/z', type: '2', link: '..' },
        { name: 'x/z/escaped', data: 'x' },
      ],
    ],
    [
      'a hard link to an absolute name',
      (outside) => [{ name: 'a', type: '1', link: `${outside}/secret` }],
    ],
    ['a hard link to a name with ..', () => [{ name: 'a', type: '1', link: '../../lock' }]],
    [
      'a hard link through a symbolic link',
      (outside) => [
        { name: 's', type: '2', link: outside },
        { name: 'a', type: '1', link: 's/secret' },
      ],
    ],
    [
      'a whiteout through a symbolic link',
      (outside) => [{ name: 'a', type: '2', link: outside }, { name: 'a/.wh.secret' }],
    ],
    ['a whiteout with ..', () => [{ name: '../.wh.lock' }]],
  ];

  test.each(cases)('%s is refused', async (_, members) => {
    const outside = victim();
    const before = snapshot(path.dirname(outside));
    const store = newStore();
    const source = layout(path.join(temporary(), 'test'), [
      tar([{ name: 'first', data: '1' }]),
      tar([...members(outside), { name: 'last', data: '2' }]),
    ]);
    const error = await failure(store.load(source), 'ERR_LAYER_PATH_ESCAPE');
    expect(error.message).toContain('outside');
    expect(snapshot(path.dirname(outside))).toEqual(before);
    expect(fs.existsSync('/tmp/escaped')).toBe(false);
    expectEmptyStore(store.root);
  });

  test.each<[string, (outside: string) => Member[]]>([
    [
      'replaced by a directory',
      (outside) => [
        { name: 'a', type: '2', link: outside },
        { name: 'a', type: '5' },
        { name: 'a/secret', data: 'mine' },
      ],
    ],
    [
      'overwritten through a hard link to it',
      (outside) => [
        { name: 'a', type: '2', link: `${outside}/secret` },
        { name: 'b', type: '1', link: 'a' },
        { name: 'b', data: 'mine' },
      ],
    ],
    [
      'given a mode and an owner',
      (outside) => [
        { name: 'a', type: '2', link: `${outside}/secret`, mode: 0o777, uid: 5 },
        { name: 'b', type: '1', link: 'a', mode: 0o777, uid: 5 },
      ],
    ],
  ])('a link that is %s changes nothing outside', async (_, members) => {
    const outside = victim();
    const before = snapshot(outside);
    const store = newStore();
    await store
      .load(layout(path.join(temporary(), 'test'), [tar(members(outside))]))
      .catch(() => undefined);
    expect(snapshot(outside)).toEqual(before);
  });

  test('links that lead outside are kept as they are', async () => {
    const outside = victim();
    const store = newStore();
    const links: Member[] = [
      { name: 'a', type: '2', link: outside },
      { name: 'b', type: '2', link: '../../../../etc/passwd' },
    ];
    await store.load(layout(path.join(temporary(), 'test'), [tar(links)]));
    const { layersDir, lower } = await store.resolve('test');
    const layer = path.join(layersDir, lower[0] ?? '');
    expect(fs.readlinkSync(path.join(layer, 'a'))).toBe(outside);
    expect(fs.readlinkSync(path.join(layer, 'b'))).toBe('../../../../etc/passwd');
  });

  test('the entry for the root itself is none', async () => {
    const store = newStore();
    const members: Member[] = [
      { name: '/', type: '5' },
      { name: 'x', data: '1' },
    ];
    await store.load(layout(path.join(temporary(), 'test'), [tar(members)]));
  });
});

describe('an image archive that reaches outside', () => {
  test.each<[string, (secret: string) => Member[]]>([
    ['by a layer name', (secret) => [dockerManifest({ Layers: [`../../..${secret}`] })]],
    [
      'by a symbolic link as a layer',
      (secret) => [
        dockerManifest({ Layers: ['layer.tar'] }),
        { name: 'layer.tar', type: '2', link: secret },
      ],
    ],
    ['by the config name', (secret) => [dockerManifest({ Config: `../../../../../..${secret}` })]],
    [
      'by a symbolic link as manifest',
      (secret) => [{ name: 'manifest.json', type: '2', link: secret }],
    ],
    ['by its own names', () => [dockerManifest({}), { name: '../escaped', data: 'x' }]],
  ])('%s is refused', async (_, members) => {
    const secret = path.join(victim(), 'secret');
    const archive = path.join(temporary(), 'image.tar');
    const config = {
      architecture: 'amd64',
      os: 'linux',
      rootfs: { type: 'layers', diff_ids: [sha256(Buffer.from('untouched'))] },
    };
    const all = [{ name: 'config.json', data: JSON.stringify(config) }, ...members(secret)];
    fs.writeFileSync(archive, tar(all));
    const store = newStore();
    await failure(store.load(archive), 'ERR_IMAGE_ARCHIVE_ESCAPE');
    expectEmptyStore(store.root);
  });

  function dockerManifest(change: object): Member {
    const entry = { Config: 'config.json', RepoTags: ['x:y'], Layers: [], ...change };
    return { name: 'manifest.json', data: JSON.stringify([entry]) };
  }
});

describe('content that is not what it should be', () => {
  const layer = tar([{ name: 'f', data: 'x'.repeat(5000) }]);

  test.each(['gzip', 'plain'])('a changed byte in a %s layer', async (kind) => {
    const source = layout(path.join(temporary(), 'test'), [layer], {
      compress: kind === 'gzip' ? gzipSync : (bytes) => bytes,
    });
    const blob = largestBlob(source);
    const bytes = fs.readFileSync(blob);
    const at = Math.floor(bytes.length / 2);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    fs.writeFileSync(blob, bytes);
    const store = newStore();
    const error = await failure(store.load(source), 'ERR_IMAGE_DIGEST_MISMATCH');
    expect(error.message).toContain(path.basename(blob));
    expectEmptyStore(store.root);
  });

  test('a changed layer although the store has the good one', async () => {
    const good = layout(path.join(temporary(), 'test'), [layer]);
    const store = newStore();
    await store.load(good);
    const before = snapshot(store.root);
    fs.appendFileSync(largestBlob(good), 'x');
    await failure(store.load(good), 'ERR_IMAGE_DIGEST_MISMATCH');
    expect(snapshot(store.root)).toEqual({ ...before, tmp: expect.any(String) as string });
  });

  test.each<[string, (config: Record<string, unknown>) => unknown]>([
    [
      'ERR_IMAGE_DIGEST_MISMATCH',
      (c) => ({ ...c, rootfs: { type: 'layers', diff_ids: [sha256(Buffer.from('other'))] } }),
    ],
    ['ERR_IMAGE_CONFIG', (c) => ({ ...c, rootfs: { type: 'layers', diff_ids: [] } })],
    [
      'ERR_IMAGE_CONFIG',
      (c) => ({ ...c, rootfs: { type: 'layers', diff_ids: ['sha256:../../x'] } }),
    ],
    ['ERR_IMAGE_CONFIG', (c) => ({ ...c, rootfs: undefined })],
    ['ERR_IMAGE_CONFIG', (c) => ({ ...c, config: { Env: 'A=b' } })],
    ['ERR_IMAGE_CONFIG', (c) => ({ ...c, config: { Cmd: ['a\0b'] } })],
    ['ERR_IMAGE_CONFIG', () => '{"architecture": '],
    ['ERR_IMAGE_CONFIG', () => '[]'],
    ['ERR_IMAGE_CONFIG', () => 'null'],
    ['ERR_IMAGE_PLATFORM', (c) => ({ ...c, architecture: 'arm64' })],
    ['ERR_IMAGE_PLATFORM', (c) => ({ ...c, os: 'windows' })],
  ])('%s: config %#', async (code, config) => {
    const store = newStore();
    const source = layout(path.join(temporary(), 'test'), [layer], { config });
    await failure(store.load(source), code as 'ERR_IMAGE_CONFIG');
    expectEmptyStore(store.root);
  });

  test('names the field of a config that is wrong', async () => {
    const source = layout(path.join(temporary(), 'test'), [layer], {
      config: (config) => ({ ...config, config: { Env: ['A=b', 7] } }),
    });
    const error = await failure(newStore().load(source), 'ERR_IMAGE_CONFIG');
    expect(error.field).toBe('/config/Env/1');
    expect(error.message).toContain('/config/Env/1');
  });

  test.each<[string, (manifest: Record<string, unknown>) => unknown]>([
    ['ERR_IMAGE_MANIFEST', (m) => ({ ...m, schemaVersion: 1 })],
    ['ERR_IMAGE_MANIFEST', (m) => ({ ...m, layers: 'x' })],
    ['ERR_IMAGE_MANIFEST', () => 'not json'],
    [
      'ERR_IMAGE_MANIFEST',
      (m) => ({ ...m, config: { ...(m['config'] as object), digest: '../../x' } }),
    ],
    [
      'ERR_IMAGE_DIGEST_MISMATCH',
      (m) => ({ ...m, config: { ...(m['config'] as object), size: 3 } }),
    ],
    [
      'ERR_IMAGE_DIGEST_MISMATCH',
      (m) => ({ ...m, layers: (m['layers'] as object[]).map((l) => ({ ...l, size: 3 })) }),
    ],
    [
      'ERR_IMAGE_BLOB_MISSING',
      (m) => ({
        ...m,
        layers: (m['layers'] as object[]).map((l) => ({
          ...l,
          digest: sha256(Buffer.from('none')),
        })),
      }),
    ],
    ['ERR_IMAGE_CONFIG', (m) => ({ ...m, layers: [] })],
    ['ERR_IMAGE_PLATFORM', (m) => ({ ...m, artifactType: 'application/x' })],
  ])('%s: manifest %#', async (code, manifest) => {
    const store = newStore();
    const source = layout(path.join(temporary(), 'test'), [layer], { manifest });
    await failure(store.load(source), code as 'ERR_IMAGE_MANIFEST');
    expectEmptyStore(store.root);
  });

  test.each<[string, string, (directory: string) => void]>([
    [
      'ERR_IMAGE_MANIFEST',
      'index.json is no JSON',
      (d) => fs.writeFileSync(`${d}/index.json`, '{'),
    ],
    [
      'ERR_IMAGE_MANIFEST',
      'index.json is no index',
      (d) => fs.writeFileSync(`${d}/index.json`, '{}'),
    ],
    ['ERR_IMAGE_ARCHIVE_FORMAT', 'index.json is gone', (d) => fs.rmSync(`${d}/index.json`)],
    ['ERR_IMAGE_ARCHIVE_FORMAT', 'oci-layout is gone', (d) => fs.rmSync(`${d}/oci-layout`)],
    [
      'ERR_IMAGE_ARCHIVE_FORMAT',
      'another version',
      (d) => fs.writeFileSync(`${d}/oci-layout`, '{"imageLayoutVersion":"2.0.0"}'),
    ],
    [
      'ERR_IMAGE_BLOB_MISSING',
      'the blobs are gone',
      (d) => fs.rmSync(`${d}/blobs`, { recursive: true }),
    ],
    [
      'ERR_IMAGE_BLOB_MISSING',
      'a blob is a FIFO',
      (d) => {
        const b = largestBlob(d);
        fs.rmSync(b);
        run('mkfifo', b);
      },
    ],
    [
      'ERR_IMAGE_ARCHIVE_FORMAT',
      'index.json is huge',
      (d) => fs.truncateSync(`${d}/index.json`, 9 << 20),
    ],
    [
      'ERR_IMAGE_ARCHIVE_FORMAT',
      'there is no image',
      (d) => fs.writeFileSync(`${d}/index.json`, '{"schemaVersion":2,"manifests":[]}'),
    ],
  ])('%s: %s', async (code, _, damage) => {
    const store = newStore();
    const source = layout(path.join(temporary(), 'test'), [layer]);
    damage(source);
    await failure(store.load(source), code as 'ERR_IMAGE_MANIFEST');
    expectEmptyStore(store.root);
  });

  test.each<[string, Buffer]>([
    ['ERR_LAYER_FORMAT', Buffer.from('no tar, but right digests'.repeat(1000))],
    ['ERR_LAYER_UNPACK', tar([{ name: 'f', type: '1', link: 'missing' }])],
  ])('%s: a layer with digests that are right', async (code, bytes) => {
    const store = newStore();
    const source = layout(path.join(temporary(), 'test'), [bytes]);
    const error = await failure(store.load(source), code as 'ERR_LAYER_FORMAT');
    expect(error.message).toContain('layer');
    expectEmptyStore(store.root);
  });

  test('a layer that claims more bytes than there are', async () => {
    const store = newStore();
    const source = layout(path.join(temporary(), 'test'), [
      tar([{ name: 'f', data: 'x', size: 1 << 30 }], false),
    ]);
    await failure(store.load(source), 'ERR_IMAGE_ARCHIVE_TRUNCATED');
    expectEmptyStore(store.root);
  });

  test('more layers than a mount takes', async () => {
    const layers = Array.from({ length: 128 }, (_, i) => tar([{ name: `f${i}` }]));
    const store = newStore();
    const source = layout(path.join(temporary(), 'test'), layers);
    await failure(store.load(source), 'ERR_IMAGE_TOO_MANY_LAYERS');
    expectEmptyStore(store.root);
  });

  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['text', Buffer.from('hello\n'.repeat(2000))],
    ['noise', Buffer.from(Array.from({ length: 9000 }, (_, i) => (i * 7919) % 251))],
    [
      'a gzip header and noise',
      Buffer.concat([Buffer.from([0x1f, 0x8b, 8, 0]), Buffer.alloc(500, 7)]),
    ],
    [
      'a zstd header and noise',
      Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), Buffer.alloc(500, 7)]),
    ],
    ['a tar of something else', tar([{ name: 'README', data: 'x' }])],
  ])('an archive of %s', async (_, bytes) => {
    const store = newStore();
    const archive = path.join(temporary(), 'image.tar');
    fs.writeFileSync(archive, bytes);
    const error = await failure(store.load(archive), 'ERR_IMAGE_ARCHIVE_FORMAT');
    expect(error.message).toContain(archive);
    expectEmptyStore(store.root);
  });

  test('no such file', async () => {
    const error = await failure(newStore().load('/nowhere/image.tar'), 'ERR_IMAGE_SOURCE');
    expect(error.message).toContain('/nowhere/image.tar');
  });

  test('a stream that fails', async () => {
    const store = newStore();
    const broken = new Readable({
      read() {
        this.destroy(new Error('the wire is cut'));
      },
    });
    const error = await failure(store.load(broken), 'ERR_IMAGE_SOURCE');
    expect(error.message).toContain('the wire is cut');
    expectEmptyStore(store.root);
  });
});

describe('an archive that is cut short', () => {
  const noise = Buffer.from(Array.from({ length: 20_000 }, (_, i) => (i * i * 31 + i) % 256));
  const layer = tar([
    { name: 'dir/', type: '5' },
    { name: 'dir/noise', data: noise },
    { name: 'dir/zeros', data: Buffer.alloc(3000) },
    { name: 'last', data: 'end' },
  ]);

  /** Offsets of all kinds: at and around block boundaries, at the very beginning and end. */
  function offsets(length: number): number[] {
    const some = Array.from({ length: 6 }, (_, i) => Math.floor((length * i) / 6));
    return [...new Set([...some, 1, 511, 512, 513, 1024, length - 1024, length - 512, length - 1])]
      .filter((offset) => offset >= 0 && offset < length)
      .sort((a, b) => a - b);
  }

  /** What is so short that it has no header, or no magic number, is not taken for an archive at all. */
  function cutCode(
    compression: string,
    offset: number,
    otherwise: 'ERR_IMAGE_ARCHIVE_FORMAT' | 'ERR_LAYER_FORMAT',
  ) {
    return offset < (compression === '' ? 512 : 6) ? otherwise : 'ERR_IMAGE_ARCHIVE_TRUNCATED';
  }

  test.each(['', 'z'])('OCI archive (tar c%sf)', async (compression) => {
    const source = layout(path.join(temporary(), 'test'), [layer]);
    const archive = path.join(temporary(), 'image.tar');
    // Without the blocking that tar adds after the end marker: nothing is lost when that is.
    run('tar', '--blocking-factor=1', '-C', source, `-c${compression}f`, archive, '.');
    const whole = fs.readFileSync(archive);
    const store = newStore();
    for (const offset of offsets(whole.length)) {
      const cut = Readable.from([whole.subarray(0, offset)]);
      await failure(store.load(cut), cutCode(compression, offset, 'ERR_IMAGE_ARCHIVE_FORMAT'));
    }
    expectEmptyStore(store.root);
    await store.load(Readable.from([whole]));
  });

  test.each(['', 'gzip', 'zstd', 'xz', 'bzip2'])('root tarball %s', async (compressor) => {
    const file = path.join(temporary(), 'root.tar');
    fs.writeFileSync(file, layer);
    if (compressor !== '') run(compressor, '--keep', file);
    const suffix =
      { '': '', gzip: '.gz', zstd: '.zst', xz: '.xz', bzip2: '.bz2' }[compressor] ?? '';
    const whole = fs.readFileSync(file + suffix);
    const store = newStore();
    for (const offset of offsets(whole.length)) {
      const cut = path.join(temporary(), 'cut');
      fs.writeFileSync(cut, whole.subarray(0, offset));
      await failure(store.import(cut), cutCode(compressor, offset, 'ERR_LAYER_FORMAT'));
    }
    expectEmptyStore(store.root);
    const image = await store.import(file + suffix);
    expect(image.size).toBe(layer.length);
  });

  test('layer blob of a layout', async () => {
    const source = layout(path.join(temporary(), 'test'), [layer]);
    const blob = largestBlob(source);
    const whole = fs.readFileSync(blob);
    const store = newStore();
    for (const offset of offsets(whole.length)) {
      fs.writeFileSync(blob, whole.subarray(0, offset));
      await failure(store.load(source), 'ERR_IMAGE_DIGEST_MISMATCH');
    }
    expect(blobFile(source, sha256(whole))).toBe(blob);
    expectEmptyStore(store.root);
  });
});
