/** The guest kernel and the initramfs, opened when a VMM is to be started with them. */
import { closeSync, openSync } from 'node:fs';

import { ClearVMError, errnoOf, messageOf } from '../errors.js';
import type { GuestFds } from '../vm/vmm.js';

export class GuestFiles {
  readonly #paths: { kernelPath: string; initrdPath: string };
  #fds: GuestFds | undefined;

  constructor(paths: { kernelPath: string; initrdPath: string }) {
    this.#paths = paths;
  }

  /** The same each time, until `close`. Errors: ERR_KERNEL_MISSING, ERR_INITRD_MISSING. */
  open(): GuestFds {
    if (this.#fds) return this.#fds;
    const { kernelPath, initrdPath } = this.#paths;
    const kernel = openGuestFile(kernelPath, 'ERR_KERNEL_MISSING', 'guest kernel');
    try {
      const initrd = openGuestFile(initrdPath, 'ERR_INITRD_MISSING', 'initramfs');
      return (this.#fds = { kernel, initrd });
    } catch (error) {
      closeSync(kernel);
      throw error;
    }
  }

  /** Idempotent. */
  close(): void {
    if (!this.#fds) return;
    for (const fd of Object.values(this.#fds) as number[]) closeSync(fd);
    this.#fds = undefined;
  }
}

/** Errors: ERR_KERNEL_MISSING, ERR_INITRD_MISSING. */
export function checkGuestFiles(paths: { kernelPath: string; initrdPath: string }): void {
  const files = new GuestFiles(paths);
  files.open();
  files.close();
}

function openGuestFile(file: string, code: string, what: string): number {
  try {
    return openSync(file, 'r');
  } catch (cause) {
    throw new ClearVMError(
      code,
      errnoOf(cause) === 'ENOENT'
        ? `the ${what} ${file} does not exist: build it with \`npm run build\``
        : `the ${what} cannot be opened: ${messageOf(cause)}`,
      { cause },
    );
  }
}
