// For each test of pulls: a registry, an image of two layers to serve, and an empty store.
import fs from 'node:fs';
import path from 'node:path';
import { beforeEach, expect, vi } from 'vitest';
import { ImageStore, type RegistryOptions } from '../../../../src/image/index.js';
import { expectEmptyStore, largestBlob, layout, sha256, tar, temporary } from '../fixtures.js';
import { FakeRegistry } from './server.js';

/** Not compressible: layers of some hundred KiB. */
export function noise(size: number, seed: number): Buffer {
  const bytes = Buffer.alloc(size);
  let state = seed;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
}

export const big = tar([{ name: 'big', data: noise(700_000, 1) }]);
export const small = tar([{ name: 'small', data: 's' }]);
export const FAST: RegistryOptions = { pause: 1 };

export let registry: FakeRegistry;
export let store: ImageStore;
export let source: string;
beforeEach(async () => {
  registry = await FakeRegistry.start();
  vi.stubEnv('DOCKER_CONFIG', temporary());
  vi.stubEnv('XDG_CONFIG_HOME', temporary());
  store = new ImageStore({ root: path.join(temporary(), 'store') });
  source = layout(path.join(temporary(), 'layout'), [small, big]);
});

export const pull = (name = 'app', options: RegistryOptions = FAST) =>
  store.pull(`${registry.host}/${name}`, options);
export const bigBlob = () => `sha256:${path.basename(largestBlob(source))}`;

/** Everything is there, and right. */
export async function expectImage(name = 'app'): Promise<void> {
  const { layersDir, lower } = await store.resolve(`${registry.host}/${name}`);
  expect(lower.map((layer) => fs.readdirSync(path.join(layersDir, layer)))).toEqual([
    ['big'],
    ['small'],
  ]);
  const found = fs.readFileSync(path.join(layersDir, lower[0] ?? '', 'big'));
  expect(found.equals(noise(700_000, 1))).toBe(true);
  const blobs = path.join(store.root, 'images/blobs/sha256');
  for (const hex of fs.readdirSync(blobs)) {
    expect(sha256(fs.readFileSync(path.join(blobs, hex)))).toBe(`sha256:${hex}`);
  }
  expect(fs.readdirSync(path.join(store.root, 'pulls'))).toEqual([]);
  expect(fs.readdirSync(path.join(store.root, 'tmp'))).toEqual([]);
}

/** Nothing is there but lock files, which stay. */
export function expectNothing(root = store.root): void {
  fs.rmSync(path.join(root, 'locks'), { recursive: true, force: true });
  expectEmptyStore(root);
}
