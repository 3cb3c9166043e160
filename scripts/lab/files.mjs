// Files for a lab whose root file system is its own memory: which, and how they get there.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { findProgram, LabError } from './cache.mjs';

/**
 * @typedef {object} FilePlan
 * @property {string[]} paths on the host, absolute, parents before children; they keep their paths inside
 * @property {[string, string][]} links second names to give inside: path, path inside
 */

/** What shell scripts can rely on without having asked for it. Programs that the machine lacks are left out. */
const COMMANDS = (
  'bash sh busybox env cat chmod chroot cp cut date dd dirname dmesg echo find grep head id ln ls mkdir mknod mktemp ' +
  'mount mountpoint mv nproc printf ps readlink rm rmdir sed seq setpriv sha256sum sleep sort stat sync tail tar ' +
  'tee test timeout touch tr true umount uname unshare wc'
).split(' ');

const SYSTEM_FILES = [
  '/etc/passwd',
  '/etc/group',
  '/etc/hosts',
  '/etc/nsswitch.conf',
  '/etc/ld.so.cache',
];

/**
 * Lists everything that a set of files needs inside: the directories and symbolic links on the way to each, and the
 * shared libraries of programs.
 *
 * @param {string[]} files HOSTPATH or HOSTPATH:LABPATH
 * @param {string[]} trees directories, the same way
 * @returns {Promise<FilePlan>}
 * @throws {LabError} ERR_LAB_FILE for a path that does not exist
 */
export async function planFiles(files, trees) {
  const paths = new Set();
  const links = [];
  const programs = [];
  addPath(paths, process.cwd()); // where commands run unless told otherwise
  for (const [entry, isTree] of [...files.map((f) => [f, false]), ...trees.map((t) => [t, true])]) {
    const [host, inside] = splitName(entry);
    if (!existsSync(host)) throw new LabError('ERR_LAB_FILE', `no such file for the lab: ${host}`);
    const real = realpathSync(host);
    if (isTree !== lstatSync(real).isDirectory()) {
      const option = isTree ? '--file' : '--tree';
      throw new LabError(
        'ERR_LAB_FILE',
        `${host} is ${isTree ? 'not a' : 'a'} directory: use ${option}`,
      );
    }
    addPath(paths, host);
    if (isTree) addTree(paths, real);
    else if (isElf(real)) programs.push(real);
    if (inside !== undefined) links.push([real, inside]);
  }
  for (const library of await sharedLibraries(programs)) addPath(paths, library);
  return { paths: [...paths], links };
}

/**
 * What is in every lab on the instruction clock: Node, a shell and its usual commands, and the project as it is
 * installed.
 *
 * @param {string} project directory
 * @returns {{files: string[], trees: string[]}}
 */
export function defaultFiles(project) {
  const directories = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];
  const commands = COMMANDS.flatMap(
    (name) => directories.map((at) => join(at, name)).find((path) => existsSync(path)) ?? [],
  );
  const own = (names) =>
    names.map((name) => join(project, name)).filter((path) => existsSync(path));
  const built = ['build/Release', 'build/guest'].flatMap((name) => filesIn(join(project, name)));
  return {
    files: [
      process.execPath,
      ...commands,
      ...SYSTEM_FILES.filter((path) => existsSync(path)),
      ...own(['package.json']),
      ...built.filter((path) => !path.endsWith('.a')),
    ],
    trees: [...own(['dist']), ...runtimePackages(project)],
  };
}

function filesIn(directory) {
  if (!existsSync(directory)) return [];
  const entries = readdirSync(directory, { withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(directory, entry.name));
}

/** The packages that the project's own code imports, and theirs; not what only its installation needs. */
function runtimePackages(project) {
  const lockFile = join(project, 'package-lock.json');
  if (!existsSync(lockFile)) return [];
  const { packages = {} } = JSON.parse(readFileSync(lockFile, 'utf8'));
  const found = new Set();
  const visit = (from, name) => {
    // As Node looks for it: in node_modules of each directory upwards.
    for (let at = from; ; at = at.slice(0, Math.max(at.lastIndexOf('/node_modules/'), 0))) {
      const place = `${at && `${at}/`}node_modules/${name}`;
      if (packages[place]) {
        if (found.has(place)) return;
        found.add(place);
        for (const next of Object.keys(packages[place].dependencies ?? {})) visit(place, next);
        return;
      }
      if (at === '') return;
    }
  };
  for (const name of Object.keys(packages['']?.dependencies ?? {})) {
    if (name !== 'node-gyp' && name !== 'node-addon-api') visit('', name);
  }
  return [...found].map((place) => join(project, place)).filter((path) => existsSync(path));
}

function splitName(entry) {
  const colon = entry.indexOf(':');
  if (colon === -1) return [resolve(entry), undefined];
  const inside = entry.slice(colon + 1);
  if (!inside.startsWith('/')) {
    throw new LabError('ERR_LAB_FILE', `${entry}: the path inside the lab must be absolute`);
  }
  return [resolve(entry.slice(0, colon)), inside];
}

/** Adds a path, each directory above it, and, where a part is a symbolic link, the way that it points to. */
function addPath(paths, path) {
  let at = '';
  const parts = path.split('/').filter((part) => part !== '');
  for (const [index, part] of parts.entries()) {
    at = `${at}/${part}`;
    const isLink = lstatSync(at).isSymbolicLink();
    paths.add(at);
    if (isLink) {
      const target = resolve(dirname(at), readlinkSync(at));
      addPath(paths, join(target, ...parts.slice(index + 1)));
      return;
    }
  }
}

/** Adds what is below a directory. Links stay links, wherever they point. */
function addTree(paths, directory) {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    paths.add(path);
    if (entry.isDirectory()) addTree(paths, path);
  }
}

function isElf(path) {
  const start = Buffer.alloc(4);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, start, 0, 4, 0);
  } finally {
    closeSync(fd);
  }
  return start.equals(Buffer.from('\x7fELF', 'latin1'));
}

async function sharedLibraries(programs) {
  const ldd = promisify(execFile);
  const found = new Set();
  for (let at = 0; at < programs.length; at += 32) {
    const batch = programs.slice(at, at + 32);
    // ldd's status is not 0 if any of them is static.
    const said = await ldd(findProgram('ldd'), batch).then(
      ({ stdout }) => stdout,
      ({ stdout }) => stdout ?? '',
    );
    for (const [, path] of said.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)) found.add(path);
    const lost = /^\s*(\S+) => not found/m.exec(said);
    if (lost) throw new LabError('ERR_LAB_FILE', `shared library ${lost[1]} is not installed`);
  }
  return found;
}

/** An unlinked file, so that none is left whatever happens. */
function openTemporary() {
  const directory = mkdtempSync(join(tmpdir(), 'clearvm-lab-'));
  const path = join(directory, 'image');
  const fd = openSync(path, 'wx+', 0o600);
  unlinkSync(path);
  rmdirSync(directory);
  return fd;
}

/**
 * Appends a newc archive to a file. The kernel reads archives one after another, and what comes later adds to what
 * was there.
 *
 * @param {number} fd
 * @param {string} directory
 * @param {string[]} paths in it, or absolute if it is /; parents before children
 * @throws {LabError} ERR_LAB_FILE if a file cannot be read
 */
export async function appendFiles(fd, directory, paths) {
  const child = spawn(findProgram('cpio'), ['-0', '-o', '-H', 'newc', '--quiet'], {
    cwd: directory,
    stdio: ['pipe', fd, 'pipe'],
  });
  const said = [];
  child.stderr.on('data', (bytes) => said.push(bytes));
  child.stdin.on('error', () => {}); // told by its status
  child.stdin.end(paths.map((path) => `${path.replace(/^\//, '')}\0`).join(''));
  const [status] = await once(child, 'close');
  if (status === 0) return;
  const why = Buffer.concat(said).toString().trim();
  throw new LabError('ERR_LAB_FILE', `cpio cannot pack the lab's files: ${why}`);
}

/**
 * Packs an initramfs that holds a base archive and a plan's files.
 *
 * @param {string} base path of a newc archive
 * @param {FilePlan} plan
 * @returns {Promise<number>} descriptor of a file that has no name; /proc/self/fd/N opens it. The caller closes it
 * @throws {LabError} ERR_LAB_FILE if a file cannot be read
 */
export async function openMemoryImage(base, plan) {
  const fd = openTemporary();
  try {
    writeFileSync(fd, readFileSync(base));
    await appendFiles(fd, '/', plan.paths);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return fd;
}
