/** Where a path of an image leads, found in its unpacked layers without ever following a link of the image on the host. */
import { lstatSync, readlinkSync, type Stats } from 'node:fs';

import { errnoOf } from '../errors.js';

/** Symbolic links on the way, at most; Linux has the same limit. */
const MOST_LINKS = 40;

/** What the topmost layer that knows of it has at a path without links: undefined where it is not, or was deleted. */
function look(
  layers: readonly string[],
  parts: readonly string[],
): { stat: Stats; file: string } | undefined {
  for (const layer of layers) {
    let file = layer;
    let stat: Stats | undefined;
    for (const [index, part] of parts.entries()) {
      file += `/${part}`;
      try {
        stat = lstatSync(file);
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR') throw error;
        stat = undefined;
        break;
      }
      // A whiteout, of this or of what it lies in: the layers below do not count.
      if (stat.isCharacterDevice() && stat.rdev === 0) return undefined;
      if (index < parts.length - 1 && !stat.isDirectory()) return undefined;
    }
    if (stat) return { stat, file };
  }
  return undefined;
}

/**
 * The path of the directory that `path` names in the image, without links, relative to its root; undefined where there is
 * none. `layers`: their directories, topmost first.
 */
export function findImageDirectory(layers: readonly string[], path: string): string | undefined {
  let rest = path.split('/').filter(Boolean);
  const found: string[] = [];
  for (let links = 0; rest.length > 0;) {
    const [part = '', ...others] = rest;
    rest = others;
    if (part === '.') continue;
    if (part === '..') {
      found.pop();
      continue;
    }
    const entry = look(layers, [...found, part]);
    if (entry?.stat.isSymbolicLink()) {
      if (++links > MOST_LINKS) return undefined;
      const target = readlinkSync(entry.file);
      if (target.startsWith('/')) found.length = 0;
      rest = [...target.split('/').filter(Boolean), ...rest];
    } else if (entry?.stat.isDirectory()) {
      found.push(part);
    } else {
      return undefined;
    }
  }
  return found.join('/');
}
