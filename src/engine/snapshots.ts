/** Snapshots of running containers: taken, kept, and gone on from (docs/decisions/snapshots.md). */
import {
  constants,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  closeSync,
  fsyncSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';

import { ClearVMError, errnoOf } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { ControlFrame } from '../vm/protocol.js';
import type { EngineContext } from './context.js';
import { randomBytes } from './host.js';
import { findContainer } from './lookup.js';
import { Container } from './managed.js';
import { removeTree } from './remove-tree.js';
import { restoreContainer, type SnapshotFiles } from './restore.js';
import { aboutContainer, connectRunning, findRunning, type Running } from './running.js';
import { saveLayer } from './snapshot-layer.js';
import {
  CONTAINER_FILES,
  LAYER,
  MACHINE,
  MANIFEST,
  SNAPSHOT_VERSION,
  checkFiles,
  checkSnapshotName,
  checksumFile,
  encodeManifest,
  readManifest,
  type FileChecksum,
  type Snapshot,
} from './snapshot-record.js';

/** How a snapshot is taken. */
export interface CreateSnapshotOptions {
  /** One that is made up unless given. */
  name?: string;
  /** The container goes on; else it is ended, as by SIGKILL, when the snapshot is complete. */
  leaveRunning?: boolean;
}

/** How a running container is forked. */
export interface ForkOptions {
  /** Names of the new containers, for the first of them on; made up where there is none. */
  names?: readonly string[];
}

/** How long a guest has to come to the point at which a snapshot is taken, ms. */
const PATIENCE = 60_000;

/** The snapshots of running containers below a `root`. */
export class SnapshotStore {
  readonly #context: EngineContext;
  readonly #directory: string;

  /** @internal */
  constructor(context: EngineContext) {
    this.#context = context;
    this.#directory = `${context.root}/snapshots`;
  }

  /**
   * Takes a snapshot of a running container. It stands still while its memory and its writable layer are written. Errors:
   * ERR_SNAPSHOT_NAME, ERR_SNAPSHOT_EXISTS; ERR_CONTAINER_NOT_FOUND, ERR_CONTAINER_AMBIGUOUS, ERR_CONTAINER_NOT_RUNNING,
   * ERR_CONTAINER_PAUSED; ERR_SNAPSHOT_FILES (an open file that cannot be kept, by name), ERR_SNAPSHOT_TIMEOUT, ERR_VMM_BUSY,
   * ERR_SNAPSHOT_LAYER, ERR_NO_SPACE.
   */
  async create(container: string, options: CreateSnapshotOptions = {}): Promise<Snapshot> {
    const name = options.name ?? randomBytes(6).toString('hex');
    checkSnapshotName(name);
    const running = findRunning(this.#context.root, this.#context.runtimeDir, container);
    if (this.#exists(name)) throw this.#taken(name);
    return this.#inWorkspace(async (directory) => {
      const files = await this.#take(running, directory, name, options.leaveRunning ?? false);
      for (const file of [...CONTAINER_FILES, LAYER, MACHINE, MANIFEST])
        sync(`${directory}/${file}`);
      sync(directory);
      try {
        renameSync(directory, `${this.#directory}/${name}`);
      } catch (error) {
        if (['ENOTEMPTY', 'EEXIST'].includes(errnoOf(error))) throw this.#taken(name);
        throw error;
      }
      sync(this.#directory);
      this.#noteChecked(`${this.#directory}/${name}/${MACHINE}`, this.#checkedOf(name));
      return files.snapshot;
    });
  }

  /**
   * Makes a container that goes on where the snapshot's was. Errors: ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_DAMAGED (cut short, changed),
   * ERR_SNAPSHOT_FOREIGN (of another version, or made on another kind of host), ERR_SNAPSHOT_FILES (what was open or locked on a
   * volume is not there any more, or locked by somebody else), ERR_SNAPSHOT_IMAGE, ERR_NAME_IN_USE.
   */
  async restore(name: string, options: { name?: string } = {}): Promise<Container> {
    const snapshot = this.get(name);
    const directory = `${this.#directory}/${name}`;
    await checkFiles(directory, snapshot);
    const files = { directory, snapshot, checked: this.#checkedOf(name) };
    return restoreContainer(this.#context, files, options.name);
  }

  /**
   * Makes `count` containers (1 to 1000) that all go on from where this one is now, which goes on as well. If one cannot be made, none is. Errors: those
   * of `create` and `restore`, ERR_FORK_COUNT.
   */
  async fork(container: string, count = 1, options: ForkOptions = {}): Promise<Container[]> {
    if (!Number.isInteger(count) || count < 1 || count > 1000) {
      throw new ClearVMError('ERR_FORK_COUNT', `cannot make ${count} forks: 1 to 1000`);
    }
    const running = findRunning(this.#context.root, this.#context.runtimeDir, container);
    return this.#inWorkspace(async (directory) => {
      const files = await this.#take(running, directory, running.name, true);
      this.#noteChecked(`${directory}/${MACHINE}`, files.checked);
      const forks: Container[] = [];
      try {
        for (let i = 0; i < count; i++) {
          forks.push(await restoreContainer(this.#context, files, options.names?.[i]));
        }
      } catch (error) {
        for (const fork of forks) await fork.remove({ force: true }).catch(() => {});
        throw error;
      } finally {
        rmSync(files.checked, { force: true });
      }
      return forks;
    });
  }

  /** Errors: ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_DAMAGED, ERR_SNAPSHOT_FOREIGN. */
  get(name: string): Snapshot {
    const found = this.#exists(name) && readManifest(`${this.#directory}/${name}`, name);
    if (found) return found;
    throw new ClearVMError('ERR_SNAPSHOT_NOT_FOUND', `No such snapshot: ${name}`);
  }

  /** Those that can be read, the newest first. */
  list(): Snapshot[] {
    return this.#names()
      .flatMap((name) => {
        try {
          return readManifest(`${this.#directory}/${name}`, name) ?? [];
        } catch {
          return [];
        }
      })
      .sort((a, b) => (a.created < b.created ? 1 : a.created > b.created ? -1 : 0));
  }

  /** Bytes that it takes on the disk. */
  size(name: string): number {
    return readdirSync(`${this.#directory}/${name}`).reduce(
      (sum, file) => sum + statSync(`${this.#directory}/${name}/${file}`).blocks * 512,
      0,
    );
  }

  /** Removes one, good or damaged. Errors: ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_IN_USE (a container runs on its memory). */
  async remove(name: string): Promise<void> {
    if (!this.#exists(name)) {
      throw new ClearVMError('ERR_SNAPSHOT_NOT_FOUND', `No such snapshot: ${name}`);
    }
    const addon = loadAddon();
    const lock = addon.lockFile(`${this.#directory}/${name}/${MACHINE}`, false);
    if (lock < 0) {
      throw new ClearVMError(
        'ERR_SNAPSHOT_IN_USE',
        `snapshot ${name} is in use: a container that was restored from it runs on its memory; stop it first`,
      );
    }
    try {
      const gone = this.#workspaceName();
      renameSync(`${this.#directory}/${name}`, gone);
      rmSync(this.#checkedOf(name), { force: true });
      await removeTree(gone);
    } finally {
      addon.closeFd(lock);
    }
  }

  /** From a running container to files in `directory`, all but flushed. */
  async #take(
    running: Running,
    directory: string,
    name: string,
    leaveRunning: boolean,
  ): Promise<SnapshotFiles> {
    const machine = `${directory}/${MACHINE}`;
    const file = openSync(machine, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    const client = connectRunning(running);
    // A guest that does not come to the point is left alone.
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      client.close();
    }, PATIENCE);
    try {
      const facts = await client.snapshot(file);
      clearTimeout(timer);
      const sockets = await saveLayer(`${running.dataDirectory}/upper`, directory);
      for (const each of CONTAINER_FILES) {
        copyFileSync(`${running.dataDirectory}/${each}`, `${directory}/${each}`);
      }
      const record = findContainer(this.#context.root, running.id);
      if (leaveRunning) await client.request(ControlFrame.RESUME);
      else await new Container(this.#context, record).stop({ signal: 'SIGKILL', timeout: 0 });
      const files: Record<string, FileChecksum> = {};
      for (const each of [...CONTAINER_FILES, LAYER]) {
        files[each] = await checksumFile(`${directory}/${each}`);
      }
      const snapshot: Snapshot = {
        version: SNAPSHOT_VERSION,
        name,
        created: new Date().toISOString(),
        container: { id: running.id, name: running.name },
        image: record.image,
        devices: facts.get('devices') ?? 0,
        machine: statSync(machine).size,
        ...{ files, sockets },
      };
      writeFileSync(`${directory}/${MANIFEST}`, encodeManifest(snapshot), { mode: 0o600 });
      return { directory, snapshot, checked: `${directory}/checked` };
    } catch (error) {
      if (late) {
        throw new ClearVMError(
          'ERR_SNAPSHOT_TIMEOUT',
          `no snapshot of ${running.name}: its guest did not come to rest within ${PATIENCE / 1000} s`,
          { cause: error },
        );
      }
      throw aboutContainer(error, running);
    } finally {
      clearTimeout(timer);
      client.close();
      closeSync(file);
    }
  }

  /** A directory that goes when `act` is done, unless it was renamed; one that a killed process has left goes now. */
  async #inWorkspace<T>(act: (directory: string) => Promise<T>): Promise<T> {
    const addon = loadAddon();
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    await this.#removeStale();
    const directory = this.#workspaceName();
    const lockFile = `${directory}.lock`;
    const lock = addon.lockFile(lockFile, true);
    try {
      mkdirSync(directory, 0o700);
      return await act(directory);
    } finally {
      await removeTree(directory).catch(() => {});
      rmSync(lockFile, { force: true });
      addon.closeFd(lock);
    }
  }

  async #removeStale(): Promise<void> {
    const addon = loadAddon();
    for (const name of readdirSync(this.#directory)) {
      if (!name.startsWith('.') || name.endsWith('.lock')) continue;
      const directory = `${this.#directory}/${name}`;
      const lock = addon.lockFile(`${directory}.lock`, false);
      if (lock < 0) continue;
      await removeTree(directory).catch(() => {});
      rmSync(`${directory}.lock`, { force: true });
      addon.closeFd(lock);
    }
  }

  #workspaceName(): string {
    return `${this.#directory}/.${randomBytes(8).toString('hex')}`;
  }

  #names(): string[] {
    try {
      return readdirSync(this.#directory).filter((name) => !name.startsWith('.'));
    } catch {
      return [];
    }
  }

  #exists(name: string): boolean {
    return this.#names().includes(name);
  }

  #taken(name: string): ClearVMError {
    return new ClearVMError(
      'ERR_SNAPSHOT_EXISTS',
      `there is a snapshot ${name} already: remove it, or choose another name`,
    );
  }

  #checkedOf(name: string): string {
    const directory = `${this.#context.runtimeDir}/snapshots`;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    return `${directory}/${name}`;
  }

  /** Notes that the file is good as it stands: FileIdentity::Text of native/vmm/template.cc. */
  #noteChecked(machine: string, checked: string): void {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(machine, { bigint: true });
    writeFileSync(checked, [dev, ino, size, mtimeNs, ctimeNs].join(':'), { mode: 0o600 });
  }
}

function sync(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
