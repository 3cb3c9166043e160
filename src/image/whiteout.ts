import { linkSync, lstatSync, unlinkSync } from 'node:fs';
import fs from 'node:fs/promises';

import { errnoOf, isDiskFull, messageOf } from '../errors.js';
import { isOutside, isRootless } from '../user-namespace.js';
import { ImageError } from './errors.js';
import { runTool } from './tools.js';

const PREFIX = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** Other names that begin so are AUFS's own book-keeping, which no one needs. */
const META = '.wh..wh.';
/** ext4 allows 65,000 hard links to one inode. */
const MAX_LINKS = 60_000;

export interface WhiteoutResult {
  /** The layer hides everything below it. overlayfs does not look at the xattr on a layer's root directory. */
  opaqueRoot: boolean;
}

/**
 * Turns the whiteout files of a layer (image-spec, layer.md) that has just been unpacked into what overlayfs
 * understands: `.wh.NAME` becomes a character device 0/0 called NAME, `.wh..wh..opq` the opaque xattr of its
 * directory. A NAME that the same layer has too only hides what is below: a directory becomes opaque, a file needs
 * nothing. Modification times of the directories stay as they were unpacked (to 0.3 microseconds, which is what
 * Node's utimes can express).
 *
 * @param root the unpacked layer; no one else uses it
 * @param names what tar listed, as in the archive
 * @param scratch a path on the same file system for the device that the whiteouts are hard links of
 * @throws ImageError ERR_LAYER_PATH_ESCAPE, ERR_LAYER_UNPACK, ERR_IMAGE_TOOL_MISSING
 */
export async function convertWhiteouts(
  root: string,
  names: Buffer[],
  scratch: string,
  signal?: AbortSignal,
): Promise<WhiteoutResult> {
  const realRoot = Buffer.from(await fs.realpath(root));
  const directories = new Map<string, Directory | undefined>();
  const device = new WhiteoutDevice(scratch);
  try {
    // Deletions first: that leaves only real content to compare the whiteouts with.
    const wanted: { directory: Directory; name: string }[] = [];
    for (const full of names) {
      const parts = full
        .toString('latin1')
        .split('/')
        .filter((part) => part !== '' && part !== '.');
      const base = parts.pop() ?? '';
      const key = parts.join('/');
      if (!directories.has(key)) directories.set(key, await openDirectory(realRoot, key));
      const directory = directories.get(key);
      if (!directory) continue; // it went away with AUFS's book-keeping
      await remove(join(directory.path, base));
      if (base === OPAQUE) {
        directory.opaque = true;
      } else if (!base.startsWith(META)) {
        const name = base.slice(PREFIX.length);
        if (name === '' || name === '.' || name === '..') {
          throw new ImageError(
            'ERR_LAYER_PATH_ESCAPE',
            `the layer holds a whiteout of ${JSON.stringify(name)}, which is no name; do not trust this image`,
          );
        }
        wanted.push({ directory, name });
      }
    }
    const opaque = new Set<Directory>();
    for (const { directory, name } of wanted) {
      const target = join(directory.path, name);
      // Synchronous, here and below: images have had tens of thousands of whiteouts, each microseconds of work.
      const present = lstatSync(target, { throwIfNoEntry: false });
      if (!present) {
        await device.linkTo(target);
      } else if (present.isDirectory()) {
        const key = directory.key === '' ? name : `${directory.key}/${name}`;
        const hidden = directories.get(key) ?? (await openDirectory(realRoot, key));
        directories.set(key, hidden);
        if (hidden) opaque.add(hidden);
      }
    }
    for (const directory of directories.values()) {
      if (directory?.opaque) opaque.add(directory);
    }
    await setOpaque([...opaque], signal);
    for (const directory of directories.values()) {
      if (directory) await fs.utimes(directory.path, directory.atime, directory.mtime);
    }
    return { opaqueRoot: directories.get('')?.opaque ?? false };
  } catch (error) {
    if (error instanceof ImageError || isDiskFull(error)) throw error;
    throw new ImageError(
      'ERR_LAYER_UNPACK',
      `cannot make the layer's whiteouts: ${messageOf(error)}`,
      { cause: error },
    );
  } finally {
    await device.close();
  }
}

interface Directory {
  /** Its path in the layer, one character per byte. */
  key: string;
  path: Buffer;
  /** Seconds. */
  atime: number;
  mtime: number;
  opaque: boolean;
}

async function openDirectory(realRoot: Buffer, key: string): Promise<Directory | undefined> {
  const directory = key === '' ? realRoot : join(realRoot, key);
  let real: Buffer;
  try {
    real = await fs.realpath(directory, { encoding: 'buffer' });
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  // Whoever unpacked the whiteout did not go through a symbolic link; one that is there now came later.
  if (!real.equals(directory)) {
    throw new ImageError(
      'ERR_LAYER_PATH_ESCAPE',
      `the layer holds a whiteout in ${key}, which passes through a symbolic link; do not trust this image`,
    );
  }
  const { atimeNs, mtimeNs } = await fs.lstat(directory, { bigint: true });
  return {
    key,
    path: directory,
    atime: Number(atimeNs) / 1e9,
    mtime: Number(mtimeNs) / 1e9,
    opaque: false,
  };
}

async function remove(whiteout: Buffer): Promise<void> {
  try {
    unlinkSync(whiteout);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    if (errnoOf(error) !== 'EISDIR') throw error;
    await fs.rm(whiteout, { recursive: true });
  }
}

async function setOpaque(directories: Directory[], signal?: AbortSignal): Promise<void> {
  if (directories.length === 0) return;
  // trusted.* is for the host's root; an overlay in a user namespace reads user.* (mount option userxattr).
  const name = isRootless() || isOutside() ? 'user.overlay.opaque' : 'trusted.overlay.opaque';
  const paths = directories.map((directory) => Buffer.concat([directory.path, Buffer.from([0])]));
  await runTool('xargs', ['-0', '-r', 'setfattr', '-n', name, '-v', 'y', '--'], {
    input: Buffer.concat(paths),
    signal,
  });
}

/** One character device 0/0, and hard links to it, as overlayfs makes its own whiteouts. */
class WhiteoutDevice {
  readonly #made: string[] = [];
  #links = MAX_LINKS;

  constructor(private readonly base: string) {}

  async linkTo(target: Buffer): Promise<void> {
    if (this.#links >= MAX_LINKS) {
      const device = `${this.base}-${this.#made.length}`;
      await runTool('mknod', ['--mode=0600', '--', device, 'c', '0', '0']); // no privilege needed for 0/0
      this.#made.push(device);
      this.#links = 1;
    }
    linkSync(this.#made.at(-1) ?? '', target);
    this.#links++;
  }

  async close(): Promise<void> {
    for (const device of this.#made) await fs.rm(device, { force: true });
  }
}

function join(directory: Buffer, name: string): Buffer {
  return Buffer.concat([directory, Buffer.from('/'), Buffer.from(name, 'latin1')]);
}
