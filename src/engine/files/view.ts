/**
 * A container's files as this host reaches them, running or not: its root, and its volumes where it has them, in a mount
 * namespace of their own. No name in it, and no link, leads out of it.
 */
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  type Stats,
} from 'node:fs';
import { constants as os } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

import { ClearVMError, messageOf } from '../../errors.js';
import { isRootless } from '../../user-namespace.js';
import type { VmConfig } from '../../vm/config.js';
import { loadAddon } from '../../vm/native.js';
import { processStartTime } from '../host.js';
import { isActive, readStatus, statusFile, type ContainerRecord } from '../record.js';
import type { Running } from '../running.js';

/** Where a container is, and what it is made of. */
export interface ViewPlace extends Running {
  record: ContainerRecord;
  config: VmConfig;
  /** Its root may not be written to, but by this host. */
  readOnlyRoot: boolean;
}

export interface ViewOptions {
  /** Reading only unless given. */
  write?: boolean;
  /** With its volumes. */
  volumes?: boolean;
}

/** Linux's; Node does not name it. */
export const O_PATH = 0o10000000;

/** How long it is tried to get a container that somebody else is starting or removing, ms. */
const PATIENCE = 10_000;
const LOOK_AGAIN = 50;

export class FileView implements Disposable {
  /** Its root directory. */
  readonly root: number;
  /** The mount namespace. */
  readonly space: number;
  readonly #lock: number;
  #closed = false;

  /** @internal */
  constructor({ root, space }: { root: number; space: number }, lock: number) {
    this.root = root;
    this.space = space;
    this.#lock = lock;
  }

  /**
   * Opens what is at a path, links followed unless `O_NOFOLLOW` is among the flags; the descriptor is the caller's to close. Undefined
   * where nothing is. Errors: ERR_CONTAINER_PATH.
   */
  open(path: string | Buffer, flags: number, below = this.root): number | undefined {
    try {
      return loadAddon().openInRoot(below, path, flags);
    } catch (cause) {
      const { errno } = cause as { errno?: number };
      if (errno === os.errno.ENOENT) return undefined;
      throw new ClearVMError(
        'ERR_CONTAINER_PATH',
        `cannot open ${JSON.stringify(path.toString())} in the container: ${errno === os.errno.ENOTDIR ? 'not a directory' : messageOf(cause)}`,
        { cause },
      );
    }
  }

  /** What is at a path; `follow`: where a link leads. Undefined where nothing is. Errors: ERR_CONTAINER_PATH. */
  stat(path: string | Buffer, follow: boolean): Stats | undefined {
    const fd = this.open(path, O_PATH | (follow ? 0 : constants.O_NOFOLLOW));
    if (fd === undefined) return undefined;
    try {
      return fstatSync(fd);
    } finally {
      closeSync(fd);
    }
  }

  /** The names in a directory; undefined where there is none. Links are not followed in the last component. */
  list(path: string | Buffer): Buffer[] | undefined {
    let fd: number | undefined;
    try {
      fd = this.open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    } catch {
      return undefined;
    }
    if (fd === undefined) return undefined;
    try {
      return readdirSync(`/proc/self/fd/${fd}`, { encoding: 'buffer' });
    } finally {
      closeSync(fd);
    }
  }

  /** Idempotent; what was mounted goes with the last process that uses it. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of [this.root, this.space, this.#lock]) if (fd >= 0) closeSync(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Opens a container's files. What a running one has written is there; one that does not run cannot be started meanwhile.
 * Errors: ERR_VIEW, ERR_CONTAINER_RUNNING (somebody else is starting or removing it).
 */
export async function openView(place: ViewPlace, options: ViewOptions = {}): Promise<FileView> {
  const addon = loadAddon();
  const readOnly = !options.write;
  const mounts = options.volumes ? place.record.mounts : [];
  const at = `${place.directory}/view`;
  mkdirSync(at, { recursive: true, mode: 0o700 });
  for (const deadline = Date.now() + PATIENCE; ; await sleep(LOOK_AGAIN)) {
    const { status } = readStatus(place.dataDirectory);
    const vmm = isActive(status) ? statusFile(place.dataDirectory)?.vmm : undefined;
    if (vmm) {
      if (status === 'running') await tellGuest(place, 'sync');
      try {
        const view = new FileView(
          addon.makeView({ place: at, readOnly, vmm: vmm.pid, mounts }),
          -1,
        );
        // Its number may have been given to another process meanwhile.
        if (processStartTime(vmm.pid) === vmm.startTime) return view;
        view.close();
      } catch (error) {
        if (processStartTime(vmm.pid) === vmm.startTime) throw viewError(place.id, error);
      }
      continue;
    }
    const lock = addon.lockFile(`${place.directory}/lock`, false);
    if (lock < 0) {
      if (Date.now() < deadline) continue;
      throw new ClearVMError(
        'ERR_CONTAINER_RUNNING',
        `container ${place.id.slice(0, 12)} is being started or removed by somebody else`,
      );
    }
    try {
      const { root } = place.config;
      const overlay = { ...root, base: root.base ?? '' };
      return new FileView(addon.makeView({ place: at, readOnly, overlay, mounts }), lock);
    } catch (error) {
      closeSync(lock);
      throw error;
    }
  }
}

/** Why a running container's root cannot be had. */
function viewError(id: string, cause: unknown): unknown {
  const refused = [os.errno.EACCES, os.errno.EPERM].includes(
    (cause as { errno?: number }).errno ?? 0,
  );
  if (!refused || !isRootless()) return cause;
  return new ClearVMError(
    'ERR_VIEW',
    `the files of container ${id.slice(0, 12)} are out of reach, because clearvm-pause was ended and its user namespace has been given up: restart it`,
    { cause, exitCode: 1 },
  );
}

/** The files of a container's image, without those of the container. Errors: ERR_VIEW. */
export function openImageView({ directory, config }: ViewPlace): FileView {
  const { root } = config;
  const overlay = { ...root, base: root.base ?? '', state: '' };
  return new FileView(
    loadAddon().makeView({ place: `${directory}/view`, readOnly: true, overlay, mounts: [] }),
    -1,
  );
}

/** The files that a container has written, as they lie on the disk. Errors: open(2)'s. */
export function openUpperView({ dataDirectory }: ViewPlace): FileView {
  const root = openSync(`${dataDirectory}/upper`, O_PATH | constants.O_DIRECTORY);
  return new FileView({ root, space: -1 }, -1);
}

/** Has a running container's kernel write out what it holds (`sync`), or look at its files anew (`refresh`). */
export async function tellGuest(place: Running, what: 'sync' | 'refresh'): Promise<void> {
  const { readBuiltin } = await import('../running-commands.js');
  try {
    await readBuiltin(place, what);
  } catch (error) {
    // It has ended or was paused meanwhile: then what is on the host is all there is.
    const gone = ['ERR_CONTAINER_NOT_RUNNING', 'ERR_CONTAINER_PAUSED', 'ERR_VMM_GONE'];
    if (!(error instanceof ClearVMError) || !gone.includes(error.code)) throw error;
  }
}
