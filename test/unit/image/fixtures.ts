import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';

import { afterEach, expect, vi } from 'vitest';

import { ImageError, type ImageErrorCode } from '../../../src/image/index.js';

// Every load starts a handful of programs and flushes a disk that others may be using.
vi.setConfig({ testTimeout: 30_000 });

const made: string[] = [];

afterEach(() => {
  for (const directory of made.splice(0)) fs.rmSync(directory, { recursive: true, force: true });
});

/** A directory that is gone after the test. */
export function temporary(): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'clearvm-image-'));
  made.push(directory);
  return directory;
}

/** Runs a program and returns what it printed. */
export function run(file: string, ...args: string[]): string {
  return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** A member of a tar archive, as hostile as one likes. */
export interface Member {
  name: string;
  /** file 0, hard link 1, symbolic link 2, character device 3, block device 4, directory 5, FIFO 6 */
  type?: '0' | '1' | '2' | '3' | '4' | '5' | '6';
  link?: string;
  mode?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  device?: [number, number];
  data?: string | Buffer;
  /** PAX records. */
  pax?: Record<string, string>;
  /** A size that is not that of `data`. */
  size?: number;
}

/** A tar archive (POSIX ustar, with PAX headers where asked for); `end`: with its end marker. */
export function tar(members: Member[], end = true): Buffer {
  const blocks: Buffer[] = [];
  for (const member of members) {
    if (member.pax) {
      const records = Object.entries(member.pax).map(([key, value]) => paxRecord(key, value));
      const data = Buffer.concat(records);
      blocks.push(header({ name: 'pax' }, 'x', data.length), padded(data));
    }
    const data = Buffer.from(member.data ?? '');
    blocks.push(header(member, member.type ?? '0', member.size ?? data.length), padded(data));
  }
  if (end) blocks.push(Buffer.alloc(1024));
  return Buffer.concat(blocks);
}

function paxRecord(key: string, value: string): Buffer {
  const body = Buffer.from(` ${key}=${value}\n`);
  let length = body.length + 1;
  while (String(length).length + body.length !== length) length++;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

function header(member: Member, type: string, size: number): Buffer {
  const block = Buffer.alloc(512);
  const octal = (value: number, offset: number, width: number) =>
    block.write(`${value.toString(8).padStart(width - 1, '0')}\0`, offset, 'latin1');
  block.write(member.name.slice(0, 100), 0);
  octal(member.mode ?? (type === '5' ? 0o755 : 0o644), 100, 8);
  octal(member.uid ?? 0, 108, 8);
  octal(member.gid ?? 0, 116, 8);
  octal(size, 124, 12);
  octal(member.mtime ?? 1_600_000_000, 136, 12);
  block.write('        ', 148);
  block.write(type, 156);
  block.write((member.link ?? '').slice(0, 100), 157);
  block.write('ustar\x0000', 257, 'latin1');
  octal(member.device?.[0] ?? 0, 329, 8);
  octal(member.device?.[1] ?? 0, 337, 8);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

function padded(data: Buffer): Buffer {
  return Buffer.concat([data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
}

export function sha256(bytes: Uint8Array): `sha256:${string}` {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

interface LayoutOptions {
  /** Changes the config before it is written. */
  config?: (config: Record<string, unknown>) => unknown;
  /** Changes the manifest before it is written. */
  manifest?: (manifest: Record<string, unknown>) => unknown;
  /** Compresses a layer; gzip by default. */
  compress?: (layer: Buffer) => Buffer;
  /** The ref.name annotation; `test:latest` by default, none for null. */
  name?: string | null;
}

/** Writes an OCI layout with one image of these layers into `directory` (made when missing). */
export function layout(directory: string, layers: Buffer[], options: LayoutOptions = {}): string {
  fs.mkdirSync(path.join(directory, 'blobs/sha256'), { recursive: true });
  const blob = (bytes: Buffer, mediaType: string) => {
    const digest = sha256(bytes);
    fs.writeFileSync(blobFile(directory, digest), bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const compress = options.compress ?? ((layer: Buffer) => gzipSync(layer));
  const type = 'application/vnd.oci.image.layer.v1.tar+gzip';
  const config: Record<string, unknown> = {
    created: '2024-05-06T07:08:09Z',
    architecture: 'amd64',
    os: 'linux',
    config: { Cmd: ['/bin/sh'], Env: ['PATH=/bin'] },
    rootfs: { type: 'layers', diff_ids: layers.map(sha256) },
  };
  const json = (value: unknown) =>
    Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
  const manifest: Record<string, unknown> = {
    schemaVersion: 2,
    config: blob(
      json(options.config?.(config) ?? config),
      'application/vnd.oci.image.config.v1+json',
    ),
    layers: layers.map((layer) => blob(compress(layer), type)),
  };
  const descriptor = blob(
    json(options.manifest?.(manifest) ?? manifest),
    'application/vnd.oci.image.manifest.v1+json',
  );
  const name = options.name === undefined ? 'test:latest' : options.name;
  const annotations = name === null ? {} : { 'org.opencontainers.image.ref.name': name };
  const indexFile = path.join(directory, 'index.json');
  const before = fs.existsSync(indexFile)
    ? (JSON.parse(fs.readFileSync(indexFile, 'utf8')) as { manifests: unknown[] }).manifests
    : [];
  const manifests = [...before, { ...descriptor, annotations }];
  fs.writeFileSync(indexFile, JSON.stringify({ schemaVersion: 2, manifests }));
  fs.writeFileSync(path.join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return directory;
}

export function blobFile(directory: string, digest: string): string {
  return path.join(directory, 'blobs/sha256', digest.slice('sha256:'.length));
}

/** The largest blob of a layout: its layer. */
export function largestBlob(directory: string): string {
  const blobs = path.join(directory, 'blobs/sha256');
  const files = fs.readdirSync(blobs).map((name) => path.join(blobs, name));
  return files.sort((a, b) => fs.statSync(b).size - fs.statSync(a).size)[0] ?? '';
}

/** Expects the promise to fail with this code, and returns the error. */
export async function failure(
  promise: Promise<unknown>,
  code: ImageErrorCode,
): Promise<ImageError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error, `expected ${code}`).toBeInstanceOf(ImageError);
  expect({
    code: (error as ImageError).code,
    message: (error as ImageError).message,
  }).toMatchObject({
    code,
  });
  expect((error as ImageError).message).not.toContain('\n');
  return error as ImageError;
}

/** Expects a store to hold nothing: no image, blob, layer, record, or work in progress. */
export function expectEmptyStore(root: string): void {
  const files = fs.existsSync(root)
    ? (fs.readdirSync(root, { recursive: true, withFileTypes: true }) as fs.Dirent[])
        .filter((entry) => !entry.isDirectory() || entry.parentPath !== root)
        .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)))
    : [];
  const furniture = ['lock', 'images/blobs', 'images/blobs/sha256', 'images/oci-layout'];
  furniture.push('records/images', 'records/layers', 'images/index.json');
  expect(files.filter((file) => !furniture.includes(file))).toEqual([]);
}

/** Everything about a tree that an image keeps, one line for each file, by path. */
export function snapshot(root: string): Record<string, string> {
  const lines: Record<string, string> = {};
  const firstOfInode = new Map<string, string>();
  const visit = (directory: Buffer, prefix: string) => {
    const names = fs.readdirSync(directory, { encoding: 'buffer' });
    for (const name of names.sort(Buffer.compare)) {
      const file = Buffer.concat([directory, Buffer.from('/'), name]);
      const shown = prefix + name.toString('latin1');
      const stat = fs.lstatSync(file, { bigint: true });
      const kind = Number(stat.mode & 0o170000n).toString(8);
      const mode = Number(stat.mode & 0o7777n).toString(8);
      let line = `${kind} ${mode} ${stat.uid}:${stat.gid} ${stat.mtimeNs}`;
      if (stat.isFile()) line += ` ${stat.size} ${sha256(fs.readFileSync(file)).slice(7, 19)}`;
      if (stat.isSymbolicLink()) {
        line += ` -> ${fs.readlinkSync(file, { encoding: 'buffer' }).toString('latin1')}`;
      }
      if (stat.isCharacterDevice() || stat.isBlockDevice()) line += ` ${stat.rdev}`;
      if (!stat.isDirectory() && stat.nlink > 1n) {
        const inode = `${stat.dev}:${stat.ino}`;
        line += ` same as ${firstOfInode.get(inode) ?? shown}`;
        if (!firstOfInode.has(inode)) firstOfInode.set(inode, shown);
      }
      lines[shown] = line;
      if (stat.isDirectory()) visit(file, `${shown}/`);
    }
  };
  visit(Buffer.from(root), '');
  // "# file: name" and the attributes below it, names in octal escapes.
  const dump = run('getfattr', '--absolute-names', '-R', '-h', '-d', '-m', '-', '-e', 'hex', root);
  for (const paragraph of dump.split('\n\n')) {
    const [first = '', ...attributes] = paragraph.trim().split('\n');
    const file = first
      .replace('# file: ', '')
      .replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8)))
      .slice(root.length + 1);
    if (attributes.length > 0) lines[file] = `${lines[file] ?? ''} ${attributes.sort().join(' ')}`;
  }
  return lines;
}

/** Mounts layers (topmost first) as the VMM does, calls `use` with the merged directory, and unmounts. */
export async function withOverlay<T>(
  layersDir: string,
  lower: string[],
  use: (merged: string) => T | Promise<T>,
): Promise<T> {
  const scratch = temporary();
  const merged = path.join(scratch, 'merged');
  for (const name of ['merged', 'upper', 'work']) fs.mkdirSync(path.join(scratch, name));
  const lowerdir = lower.map((name) => path.join(layersDir, name)).join(':');
  const options = `lowerdir=${lowerdir},upperdir=${scratch}/upper,workdir=${scratch}/work`;
  run('mount', '-t', 'overlay', '-o', options, 'overlay', merged);
  try {
    return await use(merged);
  } finally {
    run('umount', merged);
  }
}
