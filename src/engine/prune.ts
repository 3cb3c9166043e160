/** Removing all that nobody uses. */
import { ClearVMError } from '../errors.js';
import { treeContents } from './usage.js';

/** What was removed. */
export interface Pruned {
  /** Containers' ids, or volumes' names. */
  removed: string[];
  /** Of their files. */
  bytes: number;
}

/** What it fails by when somebody has removed a thing meanwhile, or uses it now. */
const NOT_TO_BE = new Set([
  'ERR_CONTAINER_NOT_FOUND',
  'ERR_CONTAINER_RUNNING',
  'ERR_VOLUME_NOT_FOUND',
  'ERR_VOLUME_IN_USE',
]);

/** Removes things one after the other, but for those that are gone or used by now. Errors: those of `remove`. */
export async function prune(
  names: readonly string[],
  directoryOf: (name: string) => string,
  remove: (name: string) => Promise<void>,
): Promise<Pruned> {
  const pruned: Pruned = { removed: [], bytes: 0 };
  for (const name of names) {
    const bytes = await treeContents(directoryOf(name));
    try {
      await remove(name);
    } catch (error) {
      if (error instanceof ClearVMError && NOT_TO_BE.has(error.code)) continue;
      throw error;
    }
    pruned.removed.push(name);
    pruned.bytes += bytes;
  }
  return pruned;
}
