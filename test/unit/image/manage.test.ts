// tag, save, history, prune, usage: what needs no registry.
import fs from 'node:fs';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { buffer } from 'node:stream/consumers';

import { beforeEach, describe, expect, test } from 'vitest';

import { ImageStore, type ImageSummary } from '../../../src/image/index.js';
import { failure, layout, run, tar, temporary } from './fixtures.js';

const one = tar([{ name: 'one', data: '1' }]);
const two = tar([{ name: 'two', data: '2'.repeat(5000) }]);

let store: ImageStore;
let image: ImageSummary;
beforeEach(async () => {
  store = new ImageStore({ root: path.join(temporary(), 'store') });
  const config = (config: Record<string, unknown>) => ({
    ...config,
    history: [
      { created: '2024-01-01T00:00:00Z', created_by: 'ADD one' },
      { created: '2024-01-02T00:00:00Z', created_by: 'ENV a=b', empty_layer: true },
      { created: '2024-01-03T00:00:00Z', created_by: 'ADD two', comment: 'the second' },
    ],
  });
  const source = layout(path.join(temporary(), 'layout'), [one, two], { name: 'app:1', config });
  image = (await store.load(source))[0]!;
});

const names = async () => (await store.list()).map((each) => each.names);

describe('tag', () => {
  test('adds a name, and takes it from another image', async () => {
    await store.tag('app:1', 'registry.lan:5000/app');
    await store.tag(image.id.slice(7, 19), 'third:3');
    const all = ['app:1', 'registry.lan:5000/app:latest', 'third:3'];
    expect(await names()).toEqual([all]);
    const other = layout(path.join(temporary(), 'other'), [one], { name: 'other:1' });
    await store.load(other);
    await store.tag('other:1', 'app:1');
    expect(await names()).toEqual([['app:1', 'other:1'], all.slice(1)]);
    await store.tag('app:1', 'app:1');
    expect(await names()).toEqual([['app:1', 'other:1'], all.slice(1)]);
  });

  test('gives a name to an image without one, which then needs no entry of its own', async () => {
    const [unnamed] = await store.load(layout(path.join(temporary(), 'x'), [one], { name: null }));
    await store.tag(unnamed?.id ?? '', 'x:1');
    await store.remove('x:1');
    expect(await names()).toEqual([['app:1']]);
  });

  test.each([
    ['nosuch', 'x:1', 'ERR_IMAGE_NOT_FOUND'],
    ['app:1', 'X:1', 'ERR_IMAGE_REFERENCE'],
    ['app:1', `x@sha256:${'a'.repeat(64)}`, 'ERR_IMAGE_REFERENCE'],
  ] as const)('of %s as %s changes nothing', async (source, target, code) => {
    await failure(store.tag(source, target), code);
    expect(await names()).toEqual([['app:1']]);
  });
});

describe('save', () => {
  const file = () => path.join(temporary(), 'saved.tar');
  const inspect = (transport: string, archive: string) =>
    JSON.parse(run('skopeo', 'inspect', '--config', `${transport}:${archive}`)) as unknown;

  test('makes what skopeo reads as either kind, and load gives the same image', async () => {
    const archive = file();
    await store.tag('app:1', 'registry.lan:5000/app:2');
    await store.save(['app:1', 'registry.lan:5000/app:2'], archive);
    const { config } = await store.inspect('app:1');
    expect(inspect('oci-archive', `${archive}:1`)).toMatchObject({ rootfs: config.rootfs });
    expect(inspect('docker-archive', `${archive}:app:1`)).toMatchObject({ rootfs: config.rootfs });
    const copy = new ImageStore({ root: path.join(temporary(), 'store') });
    const [loaded] = await copy.load(archive);
    expect(loaded).toEqual({ ...image, names: ['app:1', 'registry.lan:5000/app:2'] });
    expect(fs.readdirSync(path.dirname(archive))).toEqual(['saved.tar']);
  });

  test('by id saves no names; a stream will do', async () => {
    const stream = new PassThrough();
    const [bytes] = await Promise.all([buffer(stream), store.save([image.id], stream)]);
    const archive = file();
    fs.writeFileSync(archive, bytes);
    const copy = new ImageStore({ root: path.join(temporary(), 'store') });
    expect(await copy.load(archive)).toEqual([{ ...image, names: [] }]);
  });

  test('leaves no file when it fails', async () => {
    const archive = file();
    await failure(store.save(['app:1', 'nosuch'], archive), 'ERR_IMAGE_NOT_FOUND');
    await failure(store.save(['app:1'], path.join(archive, 'x')), 'ERR_IMAGE_SOURCE');
    const aborter = new AbortController();
    aborter.abort();
    await failure(store.save(['app:1'], archive, { signal: aborter.signal }), 'ERR_IMAGE_ABORTED');
    expect(fs.readdirSync(path.dirname(archive))).toEqual([]);
    expect(fs.readdirSync(path.join(store.root, 'tmp'))).toEqual([]);
  });

  test('to a full disk says so, and leaves nothing there', async () => {
    const small = temporary();
    run('mount', '-t', 'tmpfs', '-o', 'size=4k', 'small', small);
    try {
      await failure(store.save(['app:1'], path.join(small, 'saved.tar')), 'ERR_IMAGE_NO_SPACE');
      expect(fs.readdirSync(small)).toEqual([]);
    } finally {
      run('umount', small);
    }
  });
});

test('history goes from new to old, with the sizes of layers', async () => {
  expect(await store.history('app:1')).toEqual([
    {
      id: image.id,
      created: '2024-01-03T00:00:00Z',
      createdBy: 'ADD two',
      comment: 'the second',
      size: two.length,
    },
    { created: '2024-01-02T00:00:00Z', createdBy: 'ENV a=b', comment: '', size: 0 },
    { created: '2024-01-01T00:00:00Z', createdBy: 'ADD one', comment: '', size: one.length },
  ]);
});

describe('prune and usage', () => {
  test('by default only what has no name goes', async () => {
    const other = layout(path.join(temporary(), 'other'), [one], { name: 'app:1' });
    const [named] = await store.load(other); // takes the name
    const before = await store.usage();
    expect(before).toMatchObject({ images: 2, active: 0, reclaimable: before.bytes });
    const used = await store.usage([image.id]);
    expect(used).toMatchObject({ images: 2, active: 1, bytes: before.bytes });
    expect(used.reclaimable).toBeLessThan(one.length); // the other's layer is shared: JSON only

    const kept = await store.prune({ inUse: () => [image.id] });
    expect(kept).toEqual({ untagged: [], deleted: [], blobs: 0, layers: 0, bytes: 0 });
    const pruned = await store.prune();
    expect(pruned).toMatchObject({ untagged: [], deleted: [image.id], layers: 1 });
    expect(pruned.bytes).toBe(before.bytes - (await store.usage()).bytes);
    expect(pruned.bytes).toBeGreaterThan(two.length);
    expect((await store.list()).map(({ id }) => id)).toEqual([named?.id]);
  });

  test('all: also what has one, unless it is used or filtered out', async () => {
    await store.tag('app:1', 'app:2');
    expect(await store.prune({ all: true, filter: () => false })).toMatchObject({ deleted: [] });
    expect(await store.prune({ all: true, inUse: () => [image.id] })).toMatchObject({
      deleted: [],
    });
    const pruned = await store.prune({ all: true });
    expect(pruned).toMatchObject({ untagged: ['app:1', 'app:2'], deleted: [image.id], layers: 2 });
    expect(await store.usage()).toEqual({ images: 0, active: 0, bytes: 0, reclaimable: 0 });
  });

  test('of a store that is not there makes none', async () => {
    const none = new ImageStore({ root: path.join(temporary(), 'none') });
    expect(await none.prune()).toMatchObject({ deleted: [], bytes: 0 });
    expect(await none.usage()).toMatchObject({ images: 0 });
    expect(fs.existsSync(none.root)).toBe(false);
  });
});
