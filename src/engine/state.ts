/**
 * What a container has on disk, from its start to its end:
 *
 *   <runtime>/<id>/owner        a symbolic link whose target says whose it is (below)
 *   <runtime>/<id>/config.json  its OCI runtime spec
 *   <runtime>/<id>/vm.json      its VM config
 *   <runtime>/names/<name>      a symbolic link to its id
 *   <root>/containers/<id>/     owner; upper and work of its overlay
 *
 * An owner is `pid:start time:boot id:image id` of the engine's process. A link is made with its content in one step, so
 * there is no moment at which a reader finds half of it. What belongs to a process that is gone, and whose VMM is gone,
 * is removed by the next run.
 */
import {
  chmodSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { execFile } from 'node:child_process';
import { readdir, rm, stat, unlink } from 'node:fs/promises';
import { promisify } from 'node:util';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import { currentBootId, processStartTime, selfStartTime } from './host.js';
import { makeName } from './names.js';

const ID = /^[0-9a-f]{64}$/;
/** A directory without an owner is being made; one that stays so this long (ms) was left by a crash. */
const UNOWNED_GRACE = 60_000;
const NAME_ATTEMPTS = 20;
/** Entries that are removed one by one: mount points, and what a small command writes. */
const SMALL_TREE = 200;
const SLASH = Buffer.from('/');

interface Owner {
  alive: boolean;
  imageId: string;
}

function readOwner(directory: string): Owner | undefined {
  let text: string;
  try {
    text = readlinkSync(`${directory}/owner`);
  } catch {
    return undefined;
  }
  const [pid = '', startTime = '', bootId = '', ...imageId] = text.split(':');
  return {
    alive:
      bootId === currentBootId() &&
      /^[1-9][0-9]*$/.test(pid) &&
      processStartTime(Number(pid)) === startTime,
    imageId: imageId.join(':'),
  };
}

/** Whether the VMM of a container still runs, although its engine may not. */
function vmmAlive(runDirectory: string): boolean {
  try {
    const config = JSON.parse(readFileSync(`${runDirectory}/vm.json`, 'utf8')) as {
      vmm?: { pid: number; startTime: string };
    };
    const vmm = config.vmm;
    return vmm !== undefined && processStartTime(vmm.pid) === vmm.startTime;
  } catch {
    return false;
  }
}

/** One container's directories and name. */
export interface ContainerState {
  id: string;
  name: string;
  /** <runtime>/<id> */
  runDirectory: string;
  /** <root>/containers/<id> */
  dataDirectory: string;
}

export class StateStore {
  readonly #root: string;
  readonly #runtimeDirectory: string;
  #ready = false;

  constructor(root: string, runtimeDirectory: string) {
    this.#root = root;
    this.#runtimeDirectory = runtimeDirectory;
  }

  /**
   * Makes a container's directories, and claims its name. Synchronous: a handful of system calls on the way to every VM.
   * Errors: ERR_NAME_IN_USE, ERR_STATE.
   */
  create(id: string, name: string | undefined, imageId: string): ContainerState {
    const runDirectory = `${this.#runtimeDirectory}/${id}`;
    const dataDirectory = `${this.#root}/containers/${id}`;
    const owner = `${process.pid}:${selfStartTime()}:${currentBootId()}:${imageId}`;
    try {
      this.#prepare();
      mkdirSync(runDirectory, 0o700);
      symlinkSync(owner, `${runDirectory}/owner`);
      mkdirSync(dataDirectory, 0o700);
      symlinkSync(owner, `${dataDirectory}/owner`);
      mkdirSync(`${dataDirectory}/upper`);
      // It becomes the container's "/", whatever this process's umask is.
      chmodSync(`${dataDirectory}/upper`, 0o755);
      mkdirSync(`${dataDirectory}/work`, 0o700);
      return { id, name: this.#claimName(id, name), runDirectory, dataDirectory };
    } catch (cause) {
      for (const directory of [runDirectory, dataDirectory]) {
        try {
          rmSync(directory, { recursive: true, force: true });
        } catch {
          // What could not be made cannot always be removed: the cause below is what matters.
        }
      }
      if (cause instanceof ClearVMError) throw cause;
      throw new ClearVMError(
        'ERR_STATE',
        `cannot make the container's directories: ${messageOf(cause)}; run as root, or choose others with --root and CLEARVM_RUN`,
        { cause },
      );
    }
  }

  /** Writes one of the container's files, at once: a promise would cost more than the file. Errors: ERR_STATE. */
  write(state: ContainerState, file: string, value: unknown): void {
    try {
      writeFileSync(`${state.runDirectory}/${file}`, JSON.stringify(value), { mode: 0o600 });
    } catch (cause) {
      throw new ClearVMError(
        'ERR_STATE',
        `cannot write ${state.runDirectory}/${file}: ${messageOf(cause)}`,
        { cause },
      );
    }
  }

  /** Removes everything of a container. Errors: ERR_STATE. */
  async remove(state: ContainerState): Promise<void> {
    await this.#releaseName(state.id, state.name);
    await Promise.all([
      removeTree(state.dataDirectory),
      rm(state.runDirectory, { recursive: true, force: true }),
    ]);
  }

  /** Ids of the images of containers that run. */
  async imagesInUse(): Promise<string[]> {
    const images = new Set<string>();
    for (const id of await list(this.#runtimeDirectory)) {
      const owner = ID.test(id) ? readOwner(`${this.#runtimeDirectory}/${id}`) : undefined;
      if (owner?.alive) images.add(owner.imageId);
    }
    return [...images];
  }

  /** Removes what dead processes have left. Never throws: it is another container's rubbish. Returns the ids. */
  async removeStale(): Promise<string[]> {
    const removed = new Set<string>();
    for (const base of [this.#runtimeDirectory, `${this.#root}/containers`]) {
      for (const id of await list(base)) {
        const directory = `${base}/${id}`;
        if (!ID.test(id) || !(await this.#isStale(id, directory))) continue;
        try {
          if (base === this.#runtimeDirectory)
            await rm(directory, { recursive: true, force: true });
          else await removeTree(directory);
          removed.add(id);
        } catch {
          // Somebody else is at it, or it cannot be removed now: the next run tries again.
        }
      }
    }
    const names = `${this.#runtimeDirectory}/names`;
    for (const name of await list(names)) {
      if (this.#nameIsFree(name)) await unlink(`${names}/${name}`).catch(() => {});
    }
    return [...removed];
  }

  #prepare(): void {
    if (this.#ready) return;
    mkdirSync(`${this.#runtimeDirectory}/names`, { recursive: true, mode: 0o711 });
    mkdirSync(`${this.#root}/containers`, { recursive: true, mode: 0o711 });
    this.#ready = true;
  }

  async #isStale(id: string, directory: string): Promise<boolean> {
    const owner = readOwner(directory);
    if (owner?.alive || vmmAlive(`${this.#runtimeDirectory}/${id}`)) return false;
    if (owner) return true;
    try {
      return Date.now() - (await stat(directory)).mtimeMs > UNOWNED_GRACE;
    } catch {
      return false;
    }
  }

  #claimName(id: string, wanted: string | undefined): string {
    for (let attempt = 0; ; attempt++) {
      const name = wanted ?? makeName(attempt);
      try {
        symlinkSync(id, `${this.#runtimeDirectory}/names/${name}`);
        return name;
      } catch (error) {
        if (errnoOf(error) !== 'EEXIST') throw error;
      }
      if (this.#nameIsFree(name)) {
        rmSync(`${this.#runtimeDirectory}/names/${name}`, { force: true });
      } else if (wanted !== undefined || attempt >= NAME_ATTEMPTS) {
        throw new ClearVMError(
          'ERR_NAME_IN_USE',
          `the name ${name} is taken by container ${this.#idOf(name)?.slice(0, 12)}: choose another, or wait for its end`,
          { field: 'name' },
        );
      }
    }
  }

  #idOf(name: string): string | undefined {
    try {
      return readlinkSync(`${this.#runtimeDirectory}/names/${name}`);
    } catch {
      return undefined;
    }
  }

  /** Whether the name's container is over. One that is being made has its directory and owner before its name. */
  #nameIsFree(name: string): boolean {
    const id = this.#idOf(name);
    return id !== undefined && !readOwner(`${this.#runtimeDirectory}/${id}`)?.alive;
  }

  async #releaseName(id: string, name: string): Promise<void> {
    if (this.#idOf(name) === id) {
      await unlink(`${this.#runtimeDirectory}/names/${name}`).catch(() => {});
    }
  }
}

async function list(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/**
 * Removes a directory that a container may have filled: with names that are no UTF-8 and trees deeper than any path may
 * be long, which rm(1) deals with. Starting that costs more than most containers leave behind, hence the first try.
 * Errors: ERR_STATE.
 */
async function removeTree(directory: string): Promise<void> {
  if (removeSmallTree(Buffer.from(directory), { entries: SMALL_TREE })) return;
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
