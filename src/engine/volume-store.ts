/**
 * Named volumes: `<root>/volumes/<name>/_data`, with `volume.json` beside it. A volume is there when that file is; an empty one is
 * filled, when a container is made with it, with what the image has at its place.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';

import { execa } from 'execa';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { noteEvents } from './events.js';
import type { FilterTest } from './filters.js';
import { randomBytes } from './host.js';
import { findImageDirectory } from './image-path.js';
import type { Pruned } from './prune.js';
import { readRecords, writeDurably, type MountRecord } from './record.js';
import { removeTree } from './remove-tree.js';

/** A volume, and where it is. */
export interface NamedVolume {
  name: string;
  /** RFC 3339. */
  created: string;
  labels: Record<string, string>;
  /** Made for one container, without a name of its own. */
  anonymous: boolean;
  /** Where its files are. */
  mountpoint: string;
}

/** What a volume is filled from. */
export interface FillFrom {
  layersDir: string;
  /** Names in it, topmost first. */
  lower: readonly string[];
  /** A directory below all of them. */
  base: string;
  /** Absolute path in the image. */
  path: string;
}

/** What a volume is made with. */
export interface CreateVolumeOptions {
  labels?: Record<string, string>;
  anonymous?: boolean;
}

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$/;

/** The named volumes below a `root`: directories that outlive containers. */
export class VolumeStore {
  readonly #root: string;
  readonly #directory: string;

  constructor(root: string) {
    this.#root = root;
    this.#directory = `${root}/volumes`;
  }

  /** Makes a volume, unless it is there; a name is made up unless given. Errors: ERR_VOLUME_NAME, ERR_STATE. */
  create(name?: string, options: CreateVolumeOptions = {}): NamedVolume {
    const chosen = name ?? randomBytes(32).toString('hex');
    if (!NAME.test(chosen)) {
      throw new ClearVMError(
        'ERR_VOLUME_NAME',
        `create ${chosen}: "${chosen}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`,
      );
    }
    const found = this.find(chosen);
    if (found) return found;
    const directory = `${this.#directory}/${chosen}`;
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o711 });
      mkdirSync(`${directory}/_data`, { recursive: true });
    } catch (cause) {
      throw new ClearVMError('ERR_STATE', `cannot make the volume ${chosen}: ${messageOf(cause)}`, {
        cause,
      });
    }
    const record = {
      version: 1,
      name: chosen,
      created: new Date().toISOString(),
      labels: options.labels ?? {},
      anonymous: options.anonymous ?? name === undefined,
    };
    writeDurably(directory, 'volume.json', JSON.stringify(record));
    this.#note('create', chosen);
    return this.get(chosen);
  }

  /** A volume by its name, or undefined. */
  find(name: string): NamedVolume | undefined {
    if (!NAME.test(name)) return undefined;
    try {
      const text = readFileSync(`${this.#directory}/${name}/volume.json`, 'utf8');
      const { created, labels, anonymous } = JSON.parse(text) as NamedVolume;
      return { name, created, labels, anonymous, mountpoint: this.#dataOf(name) };
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** Errors: ERR_VOLUME_NOT_FOUND. */
  get(name: string): NamedVolume {
    const found = this.find(name);
    if (found) return found;
    throw new ClearVMError('ERR_VOLUME_NOT_FOUND', `get ${name}: no such volume`);
  }

  /** By name. */
  list(): NamedVolume[] {
    let names: string[] = [];
    try {
      names = readdirSync(this.#directory);
    } catch {
      // There is none yet.
    }
    return names.sort().flatMap((name) => this.find(name) ?? []);
  }

  /** Ids of the containers that have it. */
  usersOf(name: string): string[] {
    return readRecords(this.#root)
      .filter(({ mounts }) => mounts.some((mount) => mount.name === name))
      .map(({ id }) => id);
  }

  /** Errors: ERR_VOLUME_NOT_FOUND, ERR_VOLUME_IN_USE. */
  async remove(name: string): Promise<void> {
    this.get(name);
    const users = this.usersOf(name);
    if (users.length > 0) {
      throw new ClearVMError(
        'ERR_VOLUME_IN_USE',
        `remove ${name}: volume is in use - [${users.join(', ')}]`,
      );
    }
    const directory = `${this.#directory}/${name}`;
    // Without it there is no volume, wherever this process is interrupted.
    rmSync(`${directory}/volume.json`, { force: true });
    await removeTree(directory);
    this.#note('destroy', name);
  }

  /** Removes volumes that no container uses, those with names only if `all`, `filter` permitting. */
  async prune(all = false, filter: FilterTest<NamedVolume> = () => true): Promise<Pruned> {
    const { prune } = await import('./prune.js');
    const unused = this.list().filter(
      (each) => (all || each.anonymous) && filter(each) && this.usersOf(each.name).length === 0,
    );
    return prune(
      unused.map(({ name }) => name),
      (name) => `${this.#directory}/${name}/_data`,
      (name) => this.remove(name),
    );
  }

  /** Removes the volumes that a container has for itself alone. Its record must be gone. */
  async removeAnonymous(mounts: readonly MountRecord[]): Promise<void> {
    for (const { name, anonymous } of mounts) {
      if (anonymous && name && this.find(name) && this.usersOf(name).length === 0) {
        await this.remove(name);
      }
    }
  }

  /** Fills an empty volume with what an image has at a path, if it has a directory there. Errors: ERR_VOLUME_FILL. */
  async fill(name: string, from: FillFrom): Promise<void> {
    const data = this.#dataOf(name);
    if (readdirSync(data).length > 0) return;
    const layers = from.lower.map((layer) => `${from.layersDir}/${layer}`);
    const path = findImageDirectory(layers, from.path);
    if (path === undefined) return;
    const directory = `${this.#directory}/${name}`;
    const addon = loadAddon();
    const lock = addon.lockFile(`${directory}/lock`, true);
    try {
      if (readdirSync(data).length > 0) return;
      const fresh = `${directory}/_data.new`;
      const merged = `${directory}/merged`;
      for (const each of [fresh, merged]) {
        if (existsSync(each)) await removeTree(each);
        mkdirSync(each);
      }
      // In a mount namespace of its own, which takes the mount with it. The path has no links in it, and cp follows none.
      const script =
        'cd "$1" && mount -t overlay overlay -o "ro,lowerdir=$2" "$3" && cp -a -- "$3/$4/." "$5"';
      const lower = [...from.lower, from.base].join(':');
      await execa('unshare', [
        ...['--mount', 'sh', '-c', script, 'sh'],
        ...[from.layersDir, lower, merged, path, fresh],
      ]);
      rmSync(data, { recursive: true });
      renameSync(fresh, data);
      rmSync(merged, { recursive: true, force: true });
    } catch (cause) {
      throw new ClearVMError(
        'ERR_VOLUME_FILL',
        `cannot fill the volume ${name} from ${from.path} of the image: ${messageOf(cause)}`,
        { cause },
      );
    } finally {
      addon.closeFd(lock);
    }
  }

  #note(action: string, id: string): void {
    noteEvents(this.#root, { type: 'volume', action, id, attributes: { driver: 'local' } });
  }

  #dataOf(name: string): string {
    return `${this.#directory}/${name}/_data`;
  }
}
