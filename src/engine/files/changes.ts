/** What a container has changed of its image: `diff`. */
import type { FileView } from './view.js';

/** A file that differs from the image's. */
export interface FileChange {
  kind: 'A' | 'C' | 'D';
  /** Absolute path in the container; names that are no UTF-8 have U+FFFD in them. */
  path: string;
  /** The path as it is, without the slash in front. */
  raw: Buffer;
}

const SLASH = Buffer.from('/');

function join(directory: Buffer, name: Buffer): Buffer {
  return directory.length === 0 ? name : Buffer.concat([directory, SLASH, name]);
}

/**
 * Compares three trees: what the container has written, what it sees, and its image. Parents come before what is in them, names
 * in the order of their bytes.
 *
 * Whiteouts and opaque directories need no looking at: what the image has and the container does not see was removed.
 */
export function* findChanges(
  upper: FileView,
  merged: FileView,
  lower: FileView,
): Generator<FileChange> {
  yield* compare(Buffer.alloc(0), true, upper, merged, lower);
}

function* compare(
  directory: Buffer,
  inImage: boolean,
  upper: FileView,
  merged: FileView,
  lower: FileView,
): Generator<FileChange> {
  const at = directory.length === 0 ? '.' : directory;
  const before = new Set(inImage ? (lower.list(at) ?? []).map(key) : []);
  const now = new Set((merged.list(at) ?? []).map(key));
  const written = new Set((upper.list(at) ?? []).map(key).filter((name) => now.has(name)));
  const removed = [...before].filter((name) => !now.has(name));
  for (const name of [...written, ...removed].sort()) {
    const raw = join(directory, Buffer.from(name, 'latin1'));
    const path = `/${raw.toString()}`;
    if (!written.has(name)) {
      yield { kind: 'D', path, raw };
      continue;
    }
    yield { kind: before.has(name) ? 'C' : 'A', path, raw };
    if (!upper.stat(raw, false)?.isDirectory()) continue;
    const was = before.has(name) && (lower.stat(raw, false)?.isDirectory() ?? false);
    yield* compare(raw, was, upper, merged, lower);
  }
}

/** Any bytes as a string that compares as they do. */
const key = (name: Buffer): string => name.toString('latin1');
