// What every lab needs from the machine: programs, and a place for what is expensive to make.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, delimiter, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A failure of the lab itself, never of the command inside. The command line tells it apart by exit status 125. */
export class LabError extends Error {
  /**
   * @param {string} code stable name of the cause, such as ERR_LAB_DIED
   * @param {string} message the thing, the cause, and what to do
   * @param {{cause?: unknown}} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = 'LabError';
    this.code = code;
  }
}

/** Debian's package for each program that a lab starts. */
const PACKAGES = {
  'apt-cache': 'apt',
  'apt-get': 'apt',
  bc: 'bc',
  bison: 'bison',
  bochs: 'bochs',
  cpio: 'cpio',
  depmod: 'kmod',
  'dpkg-deb': 'dpkg',
  flex: 'flex',
  gcc: 'gcc',
  ldd: 'libc-bin',
  lz4: 'lz4',
  make: 'make',
  modprobe: 'kmod',
  'qemu-system-x86_64': 'qemu-system-x86',
  script: 'bsdutils',
  setpriv: 'util-linux',
  tar: 'tar',
  xorriso: 'xorriso',
  xz: 'xz-utils',
};

/** PATH, with the directories in which depmod and modprobe lie even if the caller is not root. */
const SEARCH_PATH = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];

/**
 * Finds a program.
 *
 * @param {keyof typeof PACKAGES} name
 * @returns {string} its path
 * @throws {LabError} ERR_LAB_PROGRAM naming the Debian package that holds it
 */
export function findProgram(name) {
  for (const directory of SEARCH_PATH) {
    if (directory !== '' && existsSync(join(directory, name))) return join(directory, name);
  }
  throw missing(name, PACKAGES[name]);
}

/**
 * Checks that a file of a Debian package is there.
 *
 * @param {string} path
 * @param {string} packageName
 * @returns {string} the path
 * @throws {LabError} ERR_LAB_PROGRAM
 */
export function findFile(path, packageName) {
  if (!existsSync(path)) throw missing(path, packageName);
  return path;
}

function missing(name, packageName) {
  return new LabError(
    'ERR_LAB_PROGRAM',
    `${name} is not installed: it is in Debian's package ${packageName}. Run: npm run setup`,
  );
}

/**
 * Runs a program to its end.
 *
 * @param {keyof typeof PACKAGES} name
 * @param {string[]} args
 * @param {import('node:child_process').ExecFileOptions} [options]
 * @returns {Promise<string>} its stdout
 * @throws {LabError} ERR_LAB_PROGRAM if it is missing, ERR_LAB_BUILD with the end of its stderr if it fails
 */
export async function runProgram(name, args, options = {}) {
  const path = findProgram(name);
  try {
    const { stdout } = await run(path, args, { maxBuffer: 64 << 20, ...options });
    return String(stdout);
  } catch (error) {
    const said = String(error.stderr ?? '')
      .trim()
      .split('\n')
      .slice(-15)
      .join('\n');
    throw new LabError(
      'ERR_LAB_BUILD',
      `${name} ${args.join(' ')} failed: ${said || error.message}`,
      {
        cause: error,
      },
    );
  }
}

/** The directory in which the labs keep kernels and the like: $XDG_CACHE_HOME/clearvm/lab. */
export function cacheDirectory() {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'clearvm', 'lab');
}

/**
 * Finds or makes a directory of the cache. It is filled under another name and renamed when it is
 * complete, so that a crash leaves no half of one behind; who comes second waits.
 *
 * @param {string} kind what it is, such as "kernel"
 * @param {(string | Buffer)[]} inputs everything that decides its contents
 * @param {(directory: string) => Promise<void>} fill
 * @returns {Promise<string>} its path
 */
export async function cached(kind, inputs, fill) {
  const hash = createHash('sha256');
  for (const input of inputs) hash.update(String(input.length)).update('\0').update(input);
  const directory = join(cacheDirectory(), `${kind}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(directory)) return directory;
  mkdirSync(cacheDirectory(), { recursive: true });
  const unlock = await lock(`${directory}.lock`);
  const temporary = `${directory}.tmp-${process.pid}`;
  try {
    if (existsSync(directory)) return directory; // somebody else has been quicker
    removeAbandoned(`${directory}.tmp-`);
    mkdirSync(temporary, { recursive: true });
    await fill(temporary);
    renameSync(temporary, directory);
  } catch (error) {
    // The lock is not proof against two that find its owner dead at once. Theirs is as good as ours.
    if (!(error.code === 'ENOTEMPTY' || error.code === 'EEXIST')) throw error;
  } finally {
    rmSync(temporary, { recursive: true, force: true });
    unlock();
  }
  return directory;
}

/** Takes a lock and returns what gives it back. The lock of a process that is gone does not count. */
async function lock(path) {
  for (;;) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const owner = Number(readOwner(path));
    if (owner > 0 && !isAlive(owner)) rmSync(path, { force: true });
    else await sleep(200);
  }
}

function readOwner(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // given back meanwhile
  }
}

/**
 * Removes what processes have left behind that are gone.
 *
 * @param {string} prefix of paths; a process id follows
 */
export function removeAbandoned(prefix) {
  for (const name of readdirSync(dirname(prefix))) {
    if (!name.startsWith(basename(prefix))) continue;
    if (isAlive(Number.parseInt(name.slice(basename(prefix).length), 10))) continue;
    rmSync(join(dirname(prefix), name), { recursive: true, force: true });
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Says what is going on, if it takes long enough that somebody may wonder. */
export function note(text) {
  process.stderr.write(`lab: ${text}\n`);
}
