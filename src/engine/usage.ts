/** What containers take on the disk. */
import { readdir } from 'node:fs/promises';

import { execa } from 'execa';

import { errnoOf } from '../errors.js';
import type { ImageUsage } from '../image/index.js';
import { isActive, readRecords, readStatus } from './record.js';
import { VolumeStore } from './volume-store.js';

/** What a container takes on the disk. */
export interface ContainerUsage {
  total: number;
  /** Those that run. */
  active: number;
  /** Bytes of all writable layers. */
  bytes: number;
  /** As many of them as containers have that do not run. */
  reclaimable: number;
}

/** What a volume takes on the disk. */
export interface VolumeUsage {
  total: number;
  /** Those that a container has. */
  active: number;
  bytes: number;
  /** As many of them as volumes have that no container has. */
  reclaimable: number;
}

/** What images and containers take on the disk. */
export interface DiskUsage {
  images: ImageUsage;
  containers: ContainerUsage;
  volumes: VolumeUsage;
}

/** Adds up the volumes below `root`. */
export async function volumeUsage(root: string): Promise<VolumeUsage> {
  const usage: VolumeUsage = { total: 0, active: 0, bytes: 0, reclaimable: 0 };
  const used = new Set(readRecords(root).flatMap(({ mounts }) => mounts.map(({ name }) => name)));
  for (const { name, mountpoint } of new VolumeStore(root).list()) {
    const bytes = await treeContents(mountpoint);
    usage.total++;
    usage.bytes += bytes;
    if (used.has(name)) usage.active++;
    else usage.reclaimable += bytes;
  }
  return usage;
}

/** Adds up the writable layers below `root`. */
export async function containerUsage(root: string): Promise<ContainerUsage> {
  const usage: ContainerUsage = { total: 0, active: 0, bytes: 0, reclaimable: 0 };
  for (const id of await containersIn(`${root}/containers`)) {
    const bytes = await treeContents(`${root}/containers/${id}/upper`);
    const active = isActive(readStatus(`${root}/containers/${id}`).status);
    usage.total++;
    usage.bytes += bytes;
    if (active) usage.active++;
    else usage.reclaimable += bytes;
  }
  return usage;
}

async function containersIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).filter((name) => /^[0-9a-f]{64}$/.test(name));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/**
 * Bytes in a tree's files, as docker counts a writable layer: by find(1), because names and depths do not stop it. Two names of a
 * file count once; directories do not.
 */
export async function treeContents(directory: string): Promise<number> {
  const { stdout } = await execa(
    'find',
    [directory, '(', '-type', 'f', '-o', '-type', 'l', ')', '-printf', '%i %s\\n'],
    { reject: false },
  );
  const sizes = new Map(stdout.split('\n').map((line) => line.split(' ') as [string, string]));
  return [...sizes.values()].reduce((sum, size) => sum + (Number(size) || 0), 0);
}
