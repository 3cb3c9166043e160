import { readFileSync, statSync } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';

import { hexOf } from './digest.js';
import type { Layout } from './layout.js';
import { lock, tryLock, type Lock } from './lock.js';
import type { Digest } from './types.js';
import type { Workspace } from './workspace.js';

const VERSION = 1;
/** What a pull that was given up has brought is kept for this long, ms. */
const KEPT = 7 * 86_400_000;

/**
 * A pull under way, or one that was interrupted. What is named here stays in the store although no image has it yet;
 * its directory holds the blobs that are being downloaded, by their hex digests.
 */
export interface PullRecord {
  version: number;
  /** Normalised. */
  reference: string;
  blobs: Digest[];
  diffIds: Digest[];
}

export function pullDirectory(layout: Layout, manifest: Digest): string {
  return path.join(layout.pulls, hexOf(manifest));
}

/**
 * Waits for the pulls of this manifest by other processes to end, and keeps out those to come.
 *
 * @param onWait called when another process is at it
 */
export async function lockPull(
  layout: Layout,
  manifest: Digest,
  signal: AbortSignal | undefined,
  onWait: () => void,
): Promise<Lock> {
  const file = lockFile(layout, hexOf(manifest));
  const held = await tryLock(file);
  if (held) return held;
  onWait();
  return lock(file, signal);
}

/** Writes a pull's record; the caller holds its lock, and the store's. */
export async function writePull(
  layout: Layout,
  manifest: Digest,
  record: Omit<PullRecord, 'version'>,
  temporary: string,
): Promise<void> {
  const text = JSON.stringify({ version: VERSION, ...record });
  await layout.writeFile(path.join(pullDirectory(layout, manifest), 'pull.json'), text, temporary);
}

/** The records of all pulls that are not too old. */
export async function readPulls(layout: Layout): Promise<PullRecord[]> {
  const records: PullRecord[] = [];
  for (const name of await namesOf(layout)) {
    const record = readPull(layout, name);
    if (record) records.push(record);
  }
  return records;
}

/**
 * Moves what interrupted pulls have left into the workspace: of those that are too old, and of those that `more` is true
 * of. The caller holds no pull's lock.
 */
export async function dropPulls(
  layout: Layout,
  workspace: Workspace,
  more: (manifest: Digest) => boolean = () => false,
): Promise<void> {
  for (const name of await namesOf(layout)) {
    if (readPull(layout, name) && !more(`sha256:${name}`)) continue;
    const held = await tryLock(lockFile(layout, name));
    if (!held) continue; // it is under way
    try {
      await fs.rename(path.join(layout.pulls, name), workspace.at(`pull-${name}`));
    } finally {
      await held.release();
    }
  }
}

/** A pull of a manifest whose digest begins with the same two digits waits, too: locks can then stay for ever. */
function lockFile(layout: Layout, hex: string): string {
  return path.join(layout.locks, `pull-${hex.slice(0, 2)}`);
}

async function namesOf(layout: Layout): Promise<string[]> {
  const names = await fs.readdir(layout.pulls).catch(() => []);
  return names.filter((name) => /^[0-9a-f]{64}$/.test(name));
}

/** Undefined for a record that is damaged, of another version, or too old: then nothing is kept for it. */
function readPull(layout: Layout, name: string): PullRecord | undefined {
  const file = path.join(layout.pulls, name, 'pull.json');
  try {
    const record = JSON.parse(readFileSync(file, 'utf8')) as PullRecord;
    return record.version === VERSION && Date.now() - statSync(file).mtimeMs < KEPT
      ? record
      : undefined;
  } catch {
    return undefined;
  }
}
