// ImageStore.commit: an image of another one and a layer; and what hears of changes.
import path from 'node:path';
import { Readable } from 'node:stream';

import { beforeEach, expect, test } from 'vitest';

import { applyChanges } from '../../../src/image/changes.js';
import { ImageStore, type ImageEvent, type ImageSummary } from '../../../src/image/index.js';
import { failure, layout, snapshot, tar, temporary } from './fixtures.js';

const one = tar([{ name: 'one', data: '1' }]);
const layer = tar([
  { name: 'two', data: '2' },
  { name: '.wh.one', data: '' },
]);

let store: ImageStore;
let parent: ImageSummary;
let events: ImageEvent[];
beforeEach(async () => {
  events = [];
  const onEvent = (event: ImageEvent) => void events.push(event);
  store = new ImageStore({ root: path.join(temporary(), 'store'), onEvent });
  const config = (before: Record<string, unknown>) => ({
    ...before,
    author: 'them',
    config: { Cmd: ['old'], Env: ['A=b'] },
    history: [{ created_by: 'ADD one' }],
  });
  parent = (
    await store.load(layout(path.join(temporary(), 'layout'), [one], { name: 'app:1', config }))
  )[0]!;
});

test('has the layers of its parent and the new one, and says what made it', async () => {
  const image = await store.commit('app:1', Readable.from([layer]), {
    ...{ name: 'made:1', author: 'me', message: 'why', createdBy: 'sh -c x' },
    config: { Cmd: ['new'], Env: ['A=b'] },
    changes: ['ENV C=d', 'ENTRYPOINT ["/init"]'],
  });
  expect(image.names).toEqual(['made:1']);
  const { config, layers } = await store.inspect('made:1');
  expect(layers).toHaveLength(2);
  expect(layers[0]).toEqual((await store.inspect('app:1')).layers[0]);
  expect(config).toMatchObject({
    author: 'me',
    config: { Env: ['A=b', 'C=d'], Entrypoint: ['/init'] },
  });
  // As in a Dockerfile: what were the old program's arguments are not the new one's.
  expect(config.config).not.toHaveProperty('Cmd');
  expect(config.history).toEqual([
    { created_by: 'ADD one' },
    { created: config.created, created_by: 'sh -c x', author: 'me', comment: 'why' },
  ]);
  const { lower } = await store.resolve('made:1');
  expect(lower).toHaveLength(2);
  expect(events.map(({ action, name }) => [action, name])).toEqual([
    ['load', 'app:1'],
    ['tag', 'made:1'],
  ]);
});

test('of an image without a name, by its id; the parent may go afterwards', async () => {
  const image = await store.commit(parent.id, Readable.from([layer]));
  expect(image.names).toEqual([]);
  expect((await store.inspect(image.id)).config.config).toEqual({ Cmd: ['old'], Env: ['A=b'] });
  await store.remove('app:1');
  expect((await store.resolve(image.id)).lower).toHaveLength(2);
  expect(events.map(({ action }) => action)).toEqual(['load', 'untag', 'delete']);
});

test.each([
  ['nosuch', layer, {}, 'ERR_IMAGE_NOT_FOUND'],
  ['app:1', layer, { name: 'A' }, 'ERR_IMAGE_REFERENCE'],
  ['app:1', layer, { changes: ['RUN x'] }, 'ERR_IMAGE_CHANGE'],
  ['app:1', layer.subarray(0, 700), {}, 'ERR_IMAGE_ARCHIVE_TRUNCATED'],
  ['app:1', tar([{ name: '../out', data: '' }]), {}, 'ERR_LAYER_PATH_ESCAPE'],
] as const)(
  '%s, or what is wrong with it, changes nothing: %#',
  async (reference, bytes, options, code) => {
    const { tmp: _before, ...before } = snapshot(store.root);
    await failure(store.commit(reference, Readable.from([bytes]), options as object), code);
    const { tmp: _after, ...after } = snapshot(store.root);
    expect(after).toEqual(before);
  },
);

test('changes go over what was there', () => {
  const from = { Cmd: ['a'], Env: ['A=1', 'B=2'], Labels: { a: 'b' } };
  expect(applyChanges(['ENV A=3', 'LABEL c=d', 'CMD ["x"]', 'ENTRYPOINT ["y"]'], from)).toEqual({
    ...{ Cmd: ['x'], Env: ['A=3', 'B=2'], Labels: { a: 'b', c: 'd' }, Entrypoint: ['y'] },
  });
  expect(from).toEqual({ Cmd: ['a'], Env: ['A=1', 'B=2'], Labels: { a: 'b' } });
});
