/** Finds and loads the native addon. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

import { ClearVMError, messageOf } from '../errors.js';
import type { Addon } from './addon-types.js';

/** The package's top directory, with a slash behind it: wherever this file, or a bundle that it is in, lies below. */
export const PACKAGE_ROOT = findPackageRoot(import.meta.dirname);

function findPackageRoot(from: string): string {
  for (let at = from; at !== '/'; at = path.dirname(at)) {
    try {
      const { name } = JSON.parse(readFileSync(`${at}/package.json`, 'utf8')) as { name?: string };
      if (name === 'clearvm') return `${at}/`;
    } catch {
      // None here.
    }
  }
  return '/';
}

/** Where `npm install` puts what it compiles. */
const BUILD = `${PACKAGE_ROOT}build/Release/`;
export const DEFAULT_VMM_PATH = `${BUILD}clearvm-vmm`;
export const DEFAULT_MONITOR_PATH = `${BUILD}clearvm-monitor`;
export const DEFAULT_USERNS_PATH = `${BUILD}clearvm-userns`;
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
    // What require() does for such a file; dlopen is all there is of it in the bundled command.
    const module = { exports: {} as Addon };
    process.dlopen(module, file);
    loaded = module.exports;
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

/**
 * Ends this process with an exit status. What Node does at its end (tearing down its heap, closing handles) takes
 * milliseconds that nobody needs. What was written to files and terminals is out already; with pipes, see `leave` in cli/main.ts.
 */
export function exitAtOnce(status: number): never {
  if (loaded) loaded.exit(status);
  return process.exit(status);
}

/** Lets go of this process's standard input and output, for a command that has given them to a VMM. */
export function releaseStreams(): void {
  for (const fd of [0, 1]) loadAddon().releaseFd(fd);
}
