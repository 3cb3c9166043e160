/**
 * What a snapshot is on disk (docs/compatibility.md): a directory `<root>/snapshots/<name>` with
 *
 *   snapshot.json    what this file describes; without it, or with one that does not fit, there is no snapshot
 *   machine.vm       memory and machine, written and checked by the VMM (native/vmm/template.h)
 *   layer.tar        the container's writable layer
 *   container.json, vm.json, config.json   the container's own
 *
 * Everything but machine.vm, which holds checksums of its own, is named here with its CRC-32: far cheaper than a digest, and it
 * is against accidents. This file has a SHA-256, small as it is, as in every version: the version is to be believed.
 */
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync, statSync } from 'node:fs';
import { crc32 } from 'node:zlib';

import { ClearVMError, errnoOf } from '../errors.js';

export const SNAPSHOT_VERSION = 2;
export const MANIFEST = 'snapshot.json';
export const MACHINE = 'machine.vm';
export const LAYER = 'layer.tar';
export const CONTAINER_FILES = ['container.json', 'vm.json', 'config.json'] as const;

/** What a file is to have in it. */
export interface FileChecksum {
  /** Bytes. */
  size: number;
  /** As gzip's (RFC 1952, 8). */
  crc32: number;
}

/** A Unix socket's file in the writable layer, which tar leaves out. */
export interface SocketFile {
  /** Relative to the layer; base64. */
  path: string;
  mode: number;
  uid: number;
  gid: number;
}

/** A snapshot, as its snapshot.json has it. */
export interface Snapshot {
  version: typeof SNAPSHOT_VERSION;
  name: string;
  /** RFC 3339. */
  created: string;
  /** Of which it was made. */
  container: { id: string; name: string };
  image: { reference: string; id: string };
  /** 9p devices that the VM has. */
  devices: number;
  /** Bytes of machine.vm. */
  machine: number;
  files: Record<string, FileChecksum>;
  sockets: SocketFile[];
}

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;

/** Errors: ERR_SNAPSHOT_NAME. */
export function checkSnapshotName(name: string): void {
  if (NAME.test(name)) return;
  throw new ClearVMError(
    'ERR_SNAPSHOT_NAME',
    `Invalid snapshot name (${name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`,
  );
}

const damaged = (name: string, why: string): ClearVMError =>
  new ClearVMError('ERR_SNAPSHOT_DAMAGED', `the snapshot ${name} cannot be used: ${why}`);

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** The manifest's text, with a digest of all the rest behind it. */
export function encodeManifest(snapshot: Snapshot): string {
  const text = JSON.stringify(snapshot);
  return `${text}\n${digestOf(text)}\n`;
}

/**
 * Reads and checks a manifest. Undefined where there is none. Errors: ERR_SNAPSHOT_DAMAGED, ERR_SNAPSHOT_FOREIGN (of another
 * version).
 */
export function readManifest(directory: string, name: string): Snapshot | undefined {
  let text: string;
  try {
    text = readFileSync(`${directory}/${MANIFEST}`, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
    throw error;
  }
  const [json = '', digest = '', end, ...more] = text.split('\n');
  if (end !== '' || more.length > 0 || digestOf(json) !== digest) {
    throw damaged(name, `${MANIFEST} does not match its checksum`);
  }
  const snapshot = JSON.parse(json) as Snapshot;
  if (snapshot.version !== SNAPSHOT_VERSION) {
    throw new ClearVMError(
      'ERR_SNAPSHOT_FOREIGN',
      `the snapshot ${name} is of version ${String(snapshot.version)}, and this engine's are of ${SNAPSHOT_VERSION}: use the engine that has made it`,
    );
  }
  return snapshot;
}

/** Reads the file through. */
export async function checksumFile(file: string): Promise<FileChecksum> {
  let sum = 0;
  let size = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
    sum = crc32(chunk as Buffer, sum);
    size += (chunk as Buffer).length;
  }
  return { size, crc32: sum };
}

/** Checks every file but the machine's memory, which is the VMM's to check. Errors: ERR_SNAPSHOT_DAMAGED. */
export async function checkFiles(directory: string, snapshot: Snapshot): Promise<void> {
  const { name } = snapshot;
  const sizeOf = (file: string): number => {
    try {
      return statSync(`${directory}/${file}`).size;
    } catch {
      throw damaged(name, `${file} is missing`);
    }
  };
  if (sizeOf(MACHINE) !== snapshot.machine) {
    throw damaged(name, `${MACHINE} has ${sizeOf(MACHINE)} bytes, not ${snapshot.machine}`);
  }
  for (const file of [LAYER, ...CONTAINER_FILES]) {
    const expected = snapshot.files[file];
    if (!expected) throw damaged(name, `${MANIFEST} does not name ${file}`);
    if (sizeOf(file) !== expected.size) {
      throw damaged(name, `${file} has ${sizeOf(file)} bytes, not ${expected.size}`);
    }
    if ((await checksumFile(`${directory}/${file}`)).crc32 !== expected.crc32) {
      throw damaged(name, `${file} does not match its checksum`);
    }
  }
}
