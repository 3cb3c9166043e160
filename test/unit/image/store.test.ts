import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

import { describe, expect, test } from 'vitest';

import { ImageStore } from '../../../src/image/index.js';
import {
  expectEmptyStore,
  failure,
  layout,
  run,
  sha256,
  snapshot,
  tar,
  temporary,
} from './fixtures.js';

const shared = tar([{ name: 'shared', data: 's' }]);
const one = tar([{ name: 'one', data: '1' }]);
const two = tar([{ name: 'two', data: '2' }]);

function newStore(): ImageStore {
  return new ImageStore({ root: path.join(temporary(), 'store') });
}

function source(name: string, ...layers: Buffer[]): string {
  return layout(path.join(temporary(), 'layout'), layers, { name });
}

const layersOf = (store: ImageStore) => fs.readdirSync(path.join(store.root, 'layers'));
const blobsOf = (store: ImageStore) => fs.readdirSync(path.join(store.root, 'images/blobs/sha256'));

describe('names and ids', () => {
  test('find the image', async () => {
    const store = newStore();
    const [image] = await store.load(source('docker.io/library/debian:12', shared, one));
    const id = image?.id ?? '';
    const forms = ['debian:12', 'docker.io/debian:12', 'index.docker.io/library/debian:12'];
    forms.push(id, id.slice(7), id.slice(7, 19), id.slice(0, 20), id.slice(7, 11));
    forms.push(
      `debian@${image?.digest ?? ''}`,
      `debian:12@${image?.digest ?? ''}`,
      image?.digest ?? '',
    );
    for (const form of forms) expect((await store.resolve(form)).id, form).toBe(id);
    const others = ['debian', 'debian:13', 'other:12', 'ghcr.io/library/debian:12', 'f'.repeat(64)];
    others.push(`debian@${id}`, `other@${image?.digest ?? ''}`, id.slice(7, 10));
    for (const form of others) await failure(store.resolve(form), 'ERR_IMAGE_NOT_FOUND');
    await failure(store.resolve('Debian'), 'ERR_IMAGE_REFERENCE');
  });

  test('a name goes to the image that was loaded last; the other keeps its id', async () => {
    const store = newStore();
    const [first] = await store.load(source('x:y', one));
    const [second] = await store.load(source('x:y', two));
    expect((await store.list()).map(({ id, names }) => [id, names])).toEqual([
      [second?.id, ['x:y']],
      [first?.id, []],
    ]);
    expect((await store.resolve('x:y')).id).toBe(second?.id);
    await store.resolve(first?.id ?? '');
    await store.load(source('x:y', one));
    expect((await store.list()).map(({ id, names }) => [id, names])).toEqual([
      [first?.id, ['x:y']],
      [second?.id, []],
    ]);
  });

  test('an id prefix of several images is refused', async () => {
    const store = newStore();
    // Two ids with the same first four digits, found by trying configs.
    const byPrefix = new Map<string, number>();
    let pair: [number, number] | undefined;
    const config = (n: number) => ({
      architecture: 'amd64',
      os: 'linux',
      author: String(n),
      rootfs: { type: 'layers', diff_ids: [sha256(one)] },
    });
    for (let n = 0; pair === undefined; n++) {
      const prefix = sha256(Buffer.from(JSON.stringify(config(n)))).slice(7, 11);
      const other = byPrefix.get(prefix);
      if (other !== undefined) pair = [other, n];
      byPrefix.set(prefix, n);
    }
    const ids: string[] = [];
    for (const n of pair) {
      const directory = path.join(temporary(), 'layout');
      const [image] = await store.load(
        layout(directory, [one], { name: `n:${n}`, config: () => config(n) }),
      );
      ids.push(image?.id ?? '');
    }
    const prefix = ids[0]?.slice(7, 11) ?? '';
    const error = await failure(store.resolve(prefix), 'ERR_IMAGE_AMBIGUOUS');
    for (const id of ids) expect(error.message).toContain(id.slice(7, 23));
    await failure(store.remove(prefix, { force: true }), 'ERR_IMAGE_AMBIGUOUS');
    expect(await store.list()).toHaveLength(2);
  });

  test('an empty store lists nothing and is not made by reading', async () => {
    const store = newStore();
    expect(await store.list()).toEqual([]);
    await failure(store.resolve('x'), 'ERR_IMAGE_NOT_FOUND');
    await failure(store.inspect('x'), 'ERR_IMAGE_NOT_FOUND');
    await failure(store.remove('x'), 'ERR_IMAGE_NOT_FOUND');
    expect(fs.existsSync(store.root)).toBe(false);
  });
});

describe('remove', () => {
  test('takes names, then the image, then what no other image has', async () => {
    const store = newStore();
    await store.load(source('first:1', shared, one));
    await store.load(source('second:1', shared, two));
    await store.load(source('alias:1', shared, one));
    expect(layersOf(store)).toHaveLength(3);
    const blobs = blobsOf(store).length;

    expect(await store.remove('first:1')).toEqual({
      untagged: ['first:1'],
      deleted: [],
      blobs: 0,
      layers: 0,
      bytes: 0,
    });
    await failure(store.resolve('first:1'), 'ERR_IMAGE_NOT_FOUND');
    const removed = await store.remove('alias:1');
    expect(removed).toMatchObject({ untagged: ['alias:1'], blobs: 3, layers: 1 });
    expect(removed.deleted).toHaveLength(1);
    expect(layersOf(store)).toHaveLength(2);
    expect(blobsOf(store)).toHaveLength(blobs - 3);
    await store.resolve('second:1');

    const [second] = await store.list();
    await store.remove(second?.id.slice(7, 19) ?? '');
    expectEmptyStore(store.root);
    await failure(store.remove('second:1'), 'ERR_IMAGE_NOT_FOUND');
  });

  test('by id refuses an image with several names, unless forced', async () => {
    const store = newStore();
    const [image] = await store.load(source('first:1', one));
    await store.load(source('second:1', one));
    const error = await failure(store.remove(image?.id ?? ''), 'ERR_IMAGE_IN_USE');
    expect(error.message).toContain('first:1, second:1');
    const removed = await store.remove(image?.id ?? '', { force: true });
    expect(removed.untagged).toEqual(['first:1', 'second:1']);
    expectEmptyStore(store.root);
  });

  test('refuses an image that a container uses; by force it loses its name only', async () => {
    const store = newStore();
    const [image] = await store.load(source('used:1', one));
    const inUse = () => [image?.id ?? ''];
    await failure(store.remove('used:1', { inUse }), 'ERR_IMAGE_IN_USE');
    await failure(store.remove(image?.id ?? '', { inUse }), 'ERR_IMAGE_IN_USE');
    await store.resolve('used:1');
    expect(await store.remove('used:1', { inUse, force: true })).toEqual({
      untagged: ['used:1'],
      deleted: [],
      blobs: 0,
      layers: 0,
      bytes: 0,
    });
    expect((await store.resolve(image?.id ?? '')).lower).toHaveLength(1);
    await store.remove(image?.id ?? '', { inUse: () => [] });
    expectEmptyStore(store.root);
  });

  test('and a container that is being made at the same time: one of the two sees the other', async () => {
    const store = newStore();
    const [image] = await store.load(source('raced:1', one));
    const resolved = await store.resolve('raced:1');
    // Used between the two looks of the removal.
    let looks = 0;
    const inUse = () => (looks++ === 0 ? [] : [image?.id ?? '']);
    await failure(store.remove('raced:1', { inUse }), 'ERR_IMAGE_IN_USE');
    expect(looks).toBe(2);
    store.confirm(resolved);
    expect(await store.resolve('raced:1')).toEqual(resolved);
    // Used after both.
    await store.remove('raced:1', { inUse: () => [] });
    expect(() => store.confirm(resolved)).toThrow(
      expect.objectContaining({ code: 'ERR_IMAGE_NOT_FOUND' }),
    );
    expectEmptyStore(store.root);
  });
});

describe('resolve', () => {
  test('opens two small files and no directory', async () => {
    const store = newStore();
    await store.load(source('x:1', shared, one));
    await store.resolve('x:1');
    const trace = path.join(temporary(), 'trace');
    const script = path.join(import.meta.dirname, 'child.ts');
    const node = path.join(import.meta.dirname, '../../../node_modules/.bin/vite-node');
    run(
      'strace',
      '-f',
      '-qq',
      '-e',
      'trace=openat,getdents64',
      '-o',
      trace,
      node,
      script,
      'resolve',
      store.root,
      'x:1',
    );
    const touched = fs
      .readFileSync(trace, 'utf8')
      .split('\n')
      .filter((line) => line.includes(store.root))
      .map((line) => /"([^"]*)"/.exec(line)?.[1]);
    expect(
      touched.map((file) => path.relative(store.root, file ?? '').replace(/[0-9a-f]{64}/, 'HEX')),
    ).toEqual(['images/index.json', 'records/images/HEX.json']);
  });

  test('makes whole what is missing, from the blobs', async () => {
    const store = newStore();
    await store.load(source('x:1', shared, one));
    const before = await store.resolve('x:1');
    const content = () =>
      Object.entries(snapshot(before.layersDir)).filter(([name]) => name.includes('/'));
    const tree = content();
    fs.rmSync(path.join(store.root, 'records'), { recursive: true });
    expect(await store.resolve('x:1')).toEqual(before);
    fs.rmSync(path.join(before.layersDir, before.lower[0] ?? ''), { recursive: true });
    expect(await store.resolve('x:1')).toEqual(before);
    const [record = ''] = fs.readdirSync(path.join(store.root, 'records/images'));
    fs.writeFileSync(path.join(store.root, 'records/images', record), '{"version":');
    expect(await store.resolve('x:1')).toEqual(before);
    expect(tree).toHaveLength(2);
    expect(content()).toEqual(tree);
    fs.rmSync(path.join(store.root, 'records'), { recursive: true });
    fs.rmSync(path.join(store.root, 'images/blobs/sha256'), { recursive: true });
    const error = await failure(store.resolve('x:1'), 'ERR_IMAGE_STORE');
    expect(error.message).toContain('load the image again');
    expect(await store.list()).toMatchObject([{ names: ['x:1'] }]);
    await store.remove('x:1');
    expect(await store.list()).toEqual([]);
  });

  test('tells what is wrong with a damaged index', async () => {
    const store = newStore();
    await store.load(source('x:1', one));
    const index = path.join(store.root, 'images/index.json');
    for (const text of ['', '{', '[]', '{"schemaVersion":2}']) {
      fs.writeFileSync(index, text);
      const error = await failure(store.resolve('x:1'), 'ERR_IMAGE_STORE');
      expect(error.message).toContain(index);
    }
  });
});

describe('several processes', () => {
  const script = path.join(import.meta.dirname, 'child.ts');
  const node = path.join(import.meta.dirname, '../../../node_modules/.bin/vite-node');

  function child(...args: string[]): Promise<number | null> {
    const process = spawn(node, [script, ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
    return new Promise((resolve) => process.once('exit', resolve));
  }

  test('load and remove the same images at the same time', async () => {
    const store = newStore();
    const sources = [
      source('a:1', shared, one),
      source('b:1', shared, two),
      source('a:1', shared, one),
    ];
    const loads = sources.map((directory) => child('load', store.root, directory));
    for (let i = 0; i < 3; i++) {
      await store.load(sources[i] ?? '');
      await store.remove('a:1').catch(() => undefined); // or a child has not loaded it yet
    }
    expect(await Promise.all(loads)).toEqual([0, 0, 0]);
    await Promise.all(sources.map((directory) => store.load(directory)));
    expect((await store.list()).map(({ names }) => names)).toEqual([['a:1'], ['b:1']]);
    for (const name of ['a:1', 'b:1']) {
      const { layersDir, lower } = await store.resolve(name);
      for (const layer of lower)
        expect(fs.readdirSync(path.join(layersDir, layer))).toHaveLength(1);
    }
    expect(fs.readdirSync(path.join(store.root, 'tmp'))).toEqual([]);
    await store.remove('a:1');
    await store.remove('b:1');
    expectEmptyStore(store.root);
  });

  test('one that is killed leaves nothing that the next does not remove', async () => {
    const big = tar([
      { name: 'big', data: Buffer.alloc(40_000_000, 'clearvm ') },
      { name: 'small' },
    ]);
    const directory = source('big:1', one, big);
    const store = newStore();
    let leftovers = 0;
    for (const delay of [0, 100]) {
      const process = spawn(node, [script, 'load', store.root, directory], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await new Promise((resolve) => process.stdout.once('data', resolve)); // it has begun to unpack
      await new Promise((resolve) => setTimeout(resolve, delay));
      process.kill('SIGKILL');
      await new Promise((resolve) => process.once('exit', resolve));
      leftovers += fs.readdirSync(path.join(store.root, 'tmp')).length;
      expect((await store.list()).every(({ names }) => names.includes('big:1'))).toBe(true);
    }
    expect(leftovers).toBeGreaterThan(0);
    // tar ends by itself when its input does.
    await new Promise((resolve) => setTimeout(resolve, 300));
    await store.load(source('x:1', two));
    expect(fs.readdirSync(path.join(store.root, 'tmp'))).toEqual([]);
    await store.remove('big:1').catch(() => undefined);
    await store.remove('x:1');
    expectEmptyStore(store.root);
  });
});

test('without root, a layer is unpacked as far as its owner may', async () => {
  const directory = temporary();
  fs.chmodSync(directory, 0o777);
  const from = source(
    'x:1',
    one,
    tar([{ name: '.wh.one' }, { name: 'dir/.wh..wh..opq' }, { name: 'dir/file', data: 'f' }]),
  );
  fs.chmodSync(path.dirname(from), 0o755);
  const script = path.join(import.meta.dirname, 'child.ts');
  const node = path.join(import.meta.dirname, '../../../node_modules/.bin/vite-node');
  const root = path.join(directory, 'store');
  run(
    'setpriv',
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    node,
    script,
    'load',
    root,
    from,
  );
  const { layersDir, lower } = await new ImageStore({ root }).resolve('x:1');
  const top = path.join(layersDir, lower[0] ?? '');
  expect(fs.statSync(path.join(top, 'one')).isCharacterDevice()).toBe(true);
  expect(fs.statSync(path.join(top, 'dir/file')).uid).toBe(65534);
  expect(run('getfattr', '--only-values', '-n', 'user.overlay.opaque', path.join(top, 'dir'))).toBe(
    'y',
  );
});

test('a full disk is told as such, and nothing is left on it', async () => {
  const small = temporary();
  run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'small', small);
  try {
    const store = new ImageStore({ root: path.join(small, 'store') });
    const noise = Buffer.alloc(6_000_000);
    for (let i = 0; i < noise.length; i++) noise[i] = (i * i * 31 + (i >> 7)) % 256;
    const big = tar([{ name: 'big', data: noise }]);
    await failure(store.load(source('x:1', one, big)), 'ERR_IMAGE_NO_SPACE');
    const archive = path.join(temporary(), 'root.tar');
    fs.writeFileSync(archive, big);
    await failure(store.import(archive), 'ERR_IMAGE_NO_SPACE');
    await failure(store.load(archive), 'ERR_IMAGE_NO_SPACE');
    expectEmptyStore(store.root);
    await store.load(source('x:1', one));
  } finally {
    run('umount', small);
  }
});
