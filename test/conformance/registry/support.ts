// What the tests of registries share: images in several forms, skopeo, and what a store must look like.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, vi } from 'vitest';
import { ImageStore } from '../../../src/image/index.js';
import { layout, sha256, snapshot, tar, temporary } from '../../unit/image/fixtures.js';
import { randomNumbers } from './proxy.js';
import type { RealRegistry } from './real.js';
import { zstdCompressSync } from './zstd.js';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

export const CLI = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));
export const AMD64 = { architecture: 'amd64', os: 'linux' };

/** Not compressible, so that a layer has the size that it says. */
export function noise(size: number, seed: number): Buffer {
  const random = randomNumbers(seed);
  const words = new Uint32Array(size >> 2);
  for (let i = 0; i < words.length; i++) words[i] = random(0xffffffff);
  return Buffer.from(words.buffer);
}

export const base = tar([
  { name: 'base', data: noise(400_000, 1) },
  { name: 'dir', type: '5' },
]);
const middle = tar([
  { name: 'dir', type: '5' },
  { name: 'dir/middle', data: noise(900_000, 2) },
]);
const top = tar([{ name: '.wh.base' }, { name: 'top', data: noise(1_300_000, 3) }]);
export const LAYERS = [base, middle, top];

let work: string;
beforeAll(() => {
  work = fs.mkdtempSync('/tmp/clearvm-registry-');
  layout(at('gzip'), LAYERS, { name: '1' });
  layout(at('zstd'), LAYERS, { name: '1', compress: zstdCompressSync, manifest: asZstd });
  layout(at('plain'), LAYERS, { name: '1', compress: (layer) => layer, manifest: asPlain });
  makeIndex();
});
afterAll(() => fs.rmSync(work, { recursive: true, force: true }));

export const at = (name: string) => path.join(work, name);

const retyped = (suffix: string) => (manifest: Record<string, unknown>) => ({
  ...manifest,
  layers: (manifest.layers as object[]).map((layer) => ({
    ...layer,
    mediaType: `application/vnd.oci.image.layer.v1.tar${suffix}`,
  })),
});
const asZstd = retyped('+zstd');
export const asPlain = retyped('');

/** A layout of one index: for arm64, and the gzip image for amd64. */
function makeIndex(): void {
  const arm = (config: Record<string, unknown>) => ({ ...config, architecture: 'arm64' });
  layout(at('index'), [base], { config: arm, name: null });
  layout(at('index'), LAYERS, { name: null });
  const file = path.join(at('index'), 'index.json');
  const { manifests } = JSON.parse(fs.readFileSync(file, 'utf8')) as { manifests: object[] };
  const mediaType = 'application/vnd.oci.image.index.v1+json';
  const platforms = [{ architecture: 'arm64', os: 'linux' }, AMD64];
  const index = {
    schemaVersion: 2,
    mediaType,
    manifests: manifests.map((each, i) => ({
      ...each,
      annotations: undefined,
      platform: platforms[i],
    })),
  };
  const bytes = Buffer.from(JSON.stringify(index));
  fs.writeFileSync(path.join(at('index'), 'blobs/sha256', sha256(bytes).slice(7)), bytes);
  const annotations = { 'org.opencontainers.image.ref.name': '1' };
  const entry = { mediaType, digest: sha256(bytes), size: bytes.length, annotations };
  fs.writeFileSync(file, JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
}

export const newStore = () => new ImageStore({ root: path.join(temporary(), 'store') });

/** Where logins and settings are looked for, instead of in this user's home. */
export function isolate(): void {
  vi.stubEnv('DOCKER_CONFIG', temporary());
  vi.stubEnv('XDG_CONFIG_HOME', temporary());
  // podman wants it to be there.
  fs.writeFileSync(path.join(process.env['DOCKER_CONFIG'] ?? '', 'config.json'), '{}');
}

export function trust(registry: RealRegistry): void {
  const directory = path.join(process.env['XDG_CONFIG_HOME'] ?? '', 'clearvm');
  fs.mkdirSync(directory, { recursive: true });
  const registries = { [registry.host]: { insecure: false, ca: registry.certificate } };
  const settings = { version: 1, registries };
  fs.writeFileSync(path.join(directory, 'registries.json'), JSON.stringify(settings));
}

/** Runs a program, whose registry and token server may be in this process. */
export async function tool(file: string, ...args: string[]): Promise<string> {
  const { stdout } = await execa(file, args, { stripFinalNewline: false, timeout: 50_000 });
  return stdout;
}

export async function skopeoPush(
  registry: RealRegistry,
  source: string,
  name: string,
  ...more: string[]
): Promise<void> {
  const target = `docker://${registry.host}/${name}:1`;
  await tool(
    'skopeo',
    'copy',
    '-q',
    '--all',
    ...more,
    ...registry.flags('dest-'),
    `oci:${source}:1`,
    target,
  );
}

/** Digest of the manifest as skopeo gets it. */
export async function skopeoDigest(registry: RealRegistry, name: string): Promise<string> {
  const raw = ['skopeo', 'inspect', '--raw', ...registry.flags()] as const;
  return sha256(Buffer.from(await tool(...raw, `docker://${registry.host}/${name}`)));
}

/** Names of the blobs that skopeo gets. */
export async function skopeoBlobs(registry: RealRegistry, name: string): Promise<string[]> {
  const directory = temporary();
  const source = `docker://${registry.host}/${name}`;
  await tool('skopeo', 'copy', '-q', ...registry.flags('src-'), source, `dir:${directory}`);
  const files = fs.readdirSync(directory).filter((file) => /^[0-9a-f]{64}$/.test(file));
  for (const file of files) {
    expect(sha256(fs.readFileSync(path.join(directory, file)))).toBe(`sha256:${file}`);
  }
  return files.sort();
}

/** Each layer that a store has whole, as text, by name. */
export function layersOf(root: string): Record<string, string> {
  const records = fs.readdirSync(path.join(root, 'records/layers'));
  return Object.fromEntries(
    records.map((record) => {
      const name = record.replace('.json', '');
      const files = Object.entries(snapshot(path.join(root, 'layers', name)));
      // A whiteout is made when it is unpacked, and says when.
      return [
        name,
        files.map((file) => file.join(' ').replace(/( 20000 .*:0) \d+/, '$1')).join('\n'),
      ];
    }),
  );
}

/** Nothing in the store is other than it should be, finished or not. */
export async function expectWhole(root: string, reference: Record<string, string>): Promise<void> {
  if (!fs.existsSync(path.join(root, 'records/layers'))) return;
  const blobs = path.join(root, 'images/blobs/sha256');
  for (const hex of fs.readdirSync(blobs)) {
    expect(sha256(fs.readFileSync(path.join(blobs, hex)))).toBe(`sha256:${hex}`);
  }
  for (const [name, content] of Object.entries(layersOf(root))) {
    expect(content).toBe(reference[name]);
  }
  const store = new ImageStore({ root });
  for (const { id } of await store.list()) {
    expect((await store.resolve(id)).lower).toHaveLength(LAYERS.length);
  }
}
