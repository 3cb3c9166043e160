/** Finds and loads the native addon. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { ClearVMError, messageOf } from '../errors.js';
import type { Addon } from './addon-types.js';

/** The package's top directory: this file is two levels below it, in src/ as in dist/. */
export const PACKAGE_ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Where `npm install` puts what it compiles. */
const BUILD = `${PACKAGE_ROOT}build/Release/`;
export const DEFAULT_VMM_PATH = `${BUILD}clearvm-vmm`;
export const DEFAULT_KERNEL_PATH = `${PACKAGE_ROOT}build/guest/vmlinux`;
export const DEFAULT_INITRD_PATH = `${PACKAGE_ROOT}build/guest/initramfs.cpio`;

let loaded: Addon | undefined;

/**
 * The addon, loaded once per process.
 * Errors: ERR_ADDON_MISSING (not built), ERR_ADDON_LOAD (built for another Node, architecture or libc).
 */
export function loadAddon(): Addon {
  if (loaded) return loaded;
  const file = `${BUILD}clearvm_addon.node`;
  try {
    loaded = createRequire(import.meta.url)(file) as Addon;
  } catch (cause) {
    if (!existsSync(file)) {
      throw new ClearVMError(
        'ERR_ADDON_MISSING',
        `the native addon ${file} is missing: run \`npm install\` in the package, or \`npm run build\` in a checkout`,
        { cause },
      );
    }
    throw new ClearVMError(
      'ERR_ADDON_LOAD',
      `the native addon ${file} cannot be loaded by Node ${process.version} on ${process.arch}: ${messageOf(cause)}; rebuild it with \`npm rebuild clearvm\`, or \`npm run build\` in a checkout`,
      { cause },
    );
  }
  return loaded;
}
