/** Removing what a container may have filled. */
import { readdirSync, rmdirSync, unlinkSync } from 'node:fs';

import { ClearVMError, messageOf } from '../errors.js';

/** Entries that are removed one by one: mount points, and what a small command writes. */
const SMALL_TREE = 200;
const SLASH = Buffer.from('/');

/**
 * Removes a directory that a container may have filled: with names that are no UTF-8 and trees deeper than any path may
 * be long, which rm(1) deals with. Starting that costs more than most containers leave behind, hence the first try.
 * Errors: ERR_STATE.
 */
export async function removeTree(directory: string): Promise<void> {
  if (removeSmallTree(Buffer.from(directory), { entries: SMALL_TREE })) return;
  // Loaded here: most containers come and go without.
  const { execFile } = await import('node:child_process');
  const { promisify } = await import('node:util');
  try {
    await promisify(execFile)('rm', ['-rf', '--one-file-system', '--', directory]);
  } catch (cause) {
    throw new ClearVMError('ERR_STATE', `cannot remove ${directory}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** Removes at most `budget.entries` entries, without letting go of the thread. False: there is more, or it cannot. */
function removeSmallTree(directory: Buffer, budget: { entries: number }): boolean {
  try {
    for (const entry of readdirSync(directory, { encoding: 'buffer', withFileTypes: true })) {
      if (--budget.entries < 0) return false;
      // Dirent<Buffer> in fact: @types/node knows of it from version 22 on.
      const path = Buffer.concat([directory, SLASH, entry.name as unknown as Buffer]);
      if (!entry.isDirectory()) unlinkSync(path);
      else if (!removeSmallTree(path, budget)) return false;
    }
    rmdirSync(directory);
    return true;
  } catch {
    return false;
  }
}
