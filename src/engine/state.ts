/**
 * What a container has on disk (docs/compatibility.md):
 *
 *   <root>/containers/<id>/     container.json, state.json (record.ts), config.json, vm.json, its log; upper and work
 *   <runtime>/<id>/             what its monitor needs while it runs
 *   <root>/names/<name>         a symbolic link to its id
 *   <root>/base/                the mount points below every container's layers
 *
 * Either a container is kept until it is removed, or it belongs to a process: then `owner` in both directories, a symbolic
 * link, says `pid:start time:boot id:image id` of it. A link is made with its content in one step, so there is no moment at
 * which a reader finds half of it. What belongs to a process that is gone, and whose VMM is gone, is removed by the next
 * run; so is what has neither owner nor record, after a while.
 */
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  unlinkSync,
} from 'node:fs';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { currentBootId, processStartTime, selfStartTime } from './host.js';
import { NameClaims } from './name-claims.js';
import { readRecord, readStatus, statusFile } from './record.js';
import { removeTree } from './remove-tree.js';

const ID = /^[0-9a-f]{64}$/;
/** A directory without an owner is being made; one that stays so this long (ms) was left by a crash. */
const UNOWNED_GRACE = 60_000;
/** Relative to the root, parents first. */
const MOUNT_POINTS = {
  directories: ['.', 'dev', 'etc', 'proc', 'sys'],
  files: ['etc/hostname', 'etc/hosts', 'etc/resolv.conf'],
};

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
function vmmAlive(dataDirectory: string): boolean {
  const vmm = statusFile(dataDirectory)?.vmm;
  return vmm !== undefined && processStartTime(vmm.pid) === vmm.startTime;
}

/** One container's directories and name. */
export interface ContainerDirectories {
  id: string;
  name: string;
  /** <runtime>/<id> */
  runDirectory: string;
  /** <root>/containers/<id> */
  dataDirectory: string;
}

export class StateStore {
  /** What lies below the layers of every container: each mount point that its image lacks would have to be made in its upper directory. */
  readonly baseDirectory: string;
  readonly names: NameClaims;
  readonly #root: string;
  readonly #runtimeDirectory: string;
  #ready = false;

  constructor(root: string, runtimeDirectory: string) {
    this.#root = root;
    this.baseDirectory = `${root}/base`;
    this.#runtimeDirectory = runtimeDirectory;
    // A container that is being made has its directory and owner before its name.
    this.names = new NameClaims(`${root}/names`, (id) => this.#isTaken(id));
  }

  /**
   * Makes a container's directories, and claims its name. Synchronous: a handful of system calls on the way to every VM.
   * `topLayer`: the directory whose owner and mode the container's root directory gets.
   * Errors: ERR_NAME_IN_USE, ERR_STATE.
   */
  create(
    id: string,
    name: string | undefined,
    imageId: string,
    topLayer: string,
  ): ContainerDirectories {
    const runDirectory = `${this.#runtimeDirectory}/${id}`;
    const dataDirectory = `${this.#root}/containers/${id}`;
    const owner = `${process.pid}:${selfStartTime()}:${currentBootId()}:${imageId}`;
    try {
      this.#prepare();
      loadAddon().makeContainerPlaces(runDirectory, dataDirectory, owner, topLayer);
      return { id, name: this.names.claim(id, name), runDirectory, dataDirectory };
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
  write(state: ContainerDirectories, file: string, value: unknown): void {
    try {
      loadAddon().writeFile(`${state.dataDirectory}/${file}`, JSON.stringify(value));
    } catch (cause) {
      throw new ClearVMError(
        'ERR_STATE',
        `cannot write ${state.dataDirectory}/${file}: ${messageOf(cause)}`,
        { cause },
      );
    }
  }

  /** What a kept container has. */
  of(id: string, name: string): ContainerDirectories {
    return {
      id,
      name,
      runDirectory: `${this.#runtimeDirectory}/${id}`,
      dataDirectory: `${this.#root}/containers/${id}`,
    };
  }

  /** From now on it is nobody's, and stays until it is removed. Its record must be there. */
  keep(state: ContainerDirectories): void {
    for (const directory of [state.runDirectory, state.dataDirectory]) {
      unlinkSync(`${directory}/owner`);
    }
  }

  /** Removes everything of a container. Errors: ERR_STATE. */
  async remove(state: ContainerDirectories): Promise<void> {
    this.names.release(state.id, state.name);
    // Without it nobody takes what is left for a container, wherever this process is interrupted.
    rmSync(`${state.dataDirectory}/container.json`, { force: true });
    await removeTree(state.dataDirectory);
    await removeTree(state.runDirectory);
  }

  /** Ids of the images of all containers. */
  async imagesInUse(): Promise<string[]> {
    const images = new Set<string>();
    for (const id of list(`${this.#root}/containers`)) {
      if (!ID.test(id)) continue;
      const directory = `${this.#root}/containers/${id}`;
      const owner = readOwner(directory);
      if (owner?.alive) images.add(owner.imageId);
      const record = owner ? undefined : readRecord(directory);
      if (record) images.add(record.image.id);
    }
    return [...images];
  }

  /** Removes what dead processes have left. Never throws: it is another container's rubbish. Returns the ids. */
  async removeStale(): Promise<string[]> {
    const removed = new Set<string>();
    for (const base of [this.#runtimeDirectory, `${this.#root}/containers`]) {
      for (const id of list(base)) {
        const directory = `${base}/${id}`;
        if (!ID.test(id) || !this.#isStale(id, directory)) continue;
        try {
          await removeTree(directory);
          removed.add(id);
        } catch {
          // Somebody else is at it, or it cannot be removed now: the next run tries again.
        }
      }
    }
    this.names.removeStale();
    return [...removed];
  }

  /** The base directory, made where it is missing. */
  prepareBase(): string {
    this.#prepare();
    return this.baseDirectory;
  }

  #prepare(): void {
    if (this.#ready) return;
    mkdirSync(this.#runtimeDirectory, { recursive: true, mode: 0o711 });
    mkdirSync(`${this.#root}/names`, { recursive: true, mode: 0o711 });
    mkdirSync(`${this.#root}/containers`, { recursive: true, mode: 0o711 });
    this.#makeBase();
    this.#ready = true;
  }

  #makeBase(): void {
    const made = `${this.baseDirectory}/${MOUNT_POINTS.files.at(-1)}`;
    if (existsSync(made)) return;
    for (const name of MOUNT_POINTS.directories) {
      mkdirSync(`${this.baseDirectory}/${name}`, { recursive: true });
      chmodSync(`${this.baseDirectory}/${name}`, 0o755);
    }
    for (const name of MOUNT_POINTS.files) {
      closeSync(openSync(`${this.baseDirectory}/${name}`, 'a', 0o644));
    }
  }

  #isStale(id: string, directory: string): boolean {
    const dataDirectory = `${this.#root}/containers/${id}`;
    const owner = readOwner(directory);
    if (owner) return !owner.alive && !vmmAlive(dataDirectory);
    const record = readRecord(dataDirectory);
    if (record) {
      // Its monitor was to remove it, and was killed.
      const { status } = readStatus(dataDirectory);
      return record.autoRemove && status === 'exited' && !vmmAlive(dataDirectory);
    }
    try {
      return Date.now() - statSync(directory).mtimeMs > UNOWNED_GRACE;
    } catch {
      return false;
    }
  }

  #isTaken(id: string): boolean {
    const directory = `${this.#root}/containers/${id}`;
    const owner = readOwner(directory);
    return owner ? owner.alive : readRecord(directory) !== undefined;
  }
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}
