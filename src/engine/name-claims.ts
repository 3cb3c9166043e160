/** Containers' names: symbolic links to their ids, which the kernel lets exist once. */
import { mkdirSync, readdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';

import { ClearVMError, errnoOf } from '../errors.js';
import { makeName } from './names.js';

const ATTEMPTS = 20;

export class NameClaims {
  readonly #directory: string;
  readonly #isTaken: (id: string) => boolean;

  /** `isTaken`: whether there is a container of that id. */
  constructor(directory: string, isTaken: (id: string) => boolean) {
    this.#directory = directory;
    this.#isTaken = isTaken;
  }

  /** Claims a name, one that is made up unless `wanted`, and returns it. Errors: ERR_NAME_IN_USE. */
  claim(id: string, wanted: string | undefined): string {
    for (let attempt = 0; ; attempt++) {
      const name = wanted ?? makeName(attempt);
      try {
        symlinkSync(id, `${this.#directory}/${name}`);
        return name;
      } catch (error) {
        if (errnoOf(error) === 'ENOENT' && attempt === 0) {
          mkdirSync(this.#directory, { recursive: true, mode: 0o711 });
          continue;
        }
        if (errnoOf(error) !== 'EEXIST') throw error;
      }
      const holder = this.idOf(name);
      if (holder !== undefined && !this.#isTaken(holder)) {
        this.release(holder, name);
      } else if (wanted !== undefined || attempt >= ATTEMPTS) {
        throw new ClearVMError(
          'ERR_NAME_IN_USE',
          `Conflict. The container name "/${name}" is already in use by container "${holder}". You have to remove (or rename) that container to be able to reuse that name.`,
          { field: 'name' },
        );
      }
    }
  }

  /** The file that claims the name. */
  pathOf(name: string): string {
    return `${this.#directory}/${name}`;
  }

  idOf(name: string): string | undefined {
    try {
      return readlinkSync(`${this.#directory}/${name}`);
    } catch {
      return undefined;
    }
  }

  release(id: string, name: string): void {
    if (this.idOf(name) === id) rmSync(`${this.#directory}/${name}`, { force: true });
  }

  /** Removes names of containers that are gone. */
  removeStale(): void {
    let names: string[] = [];
    try {
      names = readdirSync(this.#directory);
    } catch {
      // There is none yet.
    }
    for (const name of names) {
      const id = this.idOf(name);
      if (id !== undefined && !this.#isTaken(id)) this.release(id, name);
    }
  }
}
