// What goes into a kernel build, and the one hash that stands for all of it.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { basename, delimiter, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { renderConfig } from './fragments.mjs';

/** An error that a person can act on; `code` names its cause. */
export class KernelBuildError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = 'KernelBuildError';
    this.code = code;
  }
}

/** Tools of the build and the Debian packages that hold them. */
const TOOLS = {
  tar: 'tar',
  xz: 'xz-utils',
  patch: 'patch',
  make: 'make',
  gcc: 'gcc',
  ld: 'binutils',
  flex: 'flex',
  bison: 'bison',
  bc: 'bc',
  flock: 'util-linux',
};
// objtool, which the build makes for itself and runs on every object, is linked with libelf.
const HEADERS = { '/usr/include/gelf.h': 'libelf-dev' };

/** The file that Debian's source package of this version installs. */
export function sourceArchive(version) {
  return `/usr/src/linux-source-${version}.tar.xz`;
}

/**
 * Makes sure that everything is installed that a build needs.
 *
 * @param {string} archive of the kernel's source
 * @param {string} version names the package of a missing archive
 * @throws {KernelBuildError} ERR_KERNEL_SOURCE, ERR_KERNEL_TOOLS
 */
export function requirePackages(archive, version) {
  if (!existsSync(archive)) {
    throw new KernelBuildError(
      'ERR_KERNEL_SOURCE',
      `the kernel's source ${archive} is missing: it is in Debian's package linux-source-${version}. ` +
        `Run "npm run setup", or "apt-get install linux-source-${version}".`,
    );
  }
  const onPath = (tool) =>
    (process.env.PATH ?? '')
      .split(delimiter)
      .some((directory) => existsSync(join(directory, tool)));
  const missing = Object.entries(TOOLS).filter(([tool]) => !onPath(tool));
  missing.push(...Object.entries(HEADERS).filter(([header]) => !existsSync(header)));
  if (missing.length > 0) {
    const packages = [...new Set(missing.map(([, name]) => name))].join(' ');
    throw new KernelBuildError(
      'ERR_KERNEL_TOOLS',
      `the kernel cannot be built without ${missing.map(([what]) => what).join(', ')}. ` +
        `Run "npm run setup", or "apt-get install ${packages}".`,
    );
  }
}

/**
 * The SHA-256 of an archive. Hashing 150 MB takes half a second, so the answer is remembered by path, size and
 * modification time.
 */
export async function hashArchive(archive, cacheDirectory) {
  const memo = join(cacheDirectory, 'sources.json');
  const { size, mtimeMs } = statSync(archive);
  const key = `${archive} ${size} ${mtimeMs}`;
  let known = {};
  try {
    known = JSON.parse(readFileSync(memo, 'utf8'));
  } catch {
    // Missing or damaged: it is made anew.
  }
  if (typeof known[key] === 'string') return known[key];
  const hash = createHash('sha256');
  await pipeline(createReadStream(archive), hash);
  known[key] = hash.digest('hex');
  mkdirSync(cacheDirectory, { recursive: true });
  const temporary = `${memo}.${process.pid}`;
  await writeFile(temporary, JSON.stringify(known));
  await rename(temporary, memo);
  return known[key];
}

/**
 * The patches for a kernel version, in the order in which they apply: those of the directory itself, which fit every
 * version, and those of its subdirectory named by the version, sorted together by file name.
 */
export function listPatches(directory, version) {
  const own = join(directory, version);
  return [directory, ...(existsSync(own) ? [own] : [])]
    .flatMap((folder) => readdirSync(folder).map((file) => join(folder, file)))
    .filter((file) => file.endsWith('.patch'))
    .sort((a, b) => (basename(a) < basename(b) ? -1 : 1));
}

/** What `gcc --version` and `ld --version` say: another compiler makes another kernel. */
export function compilerVersion() {
  return ['gcc', 'ld']
    .map((tool) => execFileSync(tool, ['--version'], { encoding: 'utf8' }).split('\n')[0])
    .join('; ');
}

/**
 * The cache key: a hash of everything that the kernel's bytes depend on.
 *
 * @param {{archiveHash: string, compiler: string, symbols: object[], patches: string[], recipe: string}} inputs
 *   `patches` and `recipe` are contents of files
 * @returns {string} 32 hexadecimal digits
 */
export function hashInputs({ archiveHash, compiler, symbols, patches, recipe }) {
  const hash = createHash('sha256');
  for (const part of [archiveHash, compiler, renderConfig(symbols), recipe, ...patches]) {
    hash.update(`${Buffer.byteLength(part)}:`).update(part);
  }
  return hash.digest('hex').slice(0, 32);
}
