/** The directories of a run, with the root file system that all runtimes share; nothing of it stays. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
} from 'node:fs';
import { release } from 'node:os';
import path from 'node:path';

import { execa } from 'execa';

import type { Engine } from '../engine/engine.js';
import { ClearVMError, messageOf } from '../errors.js';
import type { Place } from './types.js';

const PREFIX = 'bench-';

export interface KernelOptions {
  qemuKernel?: string | undefined;
  qemuInitrd?: string | undefined;
  firecrackerKernel?: string | undefined;
}

/**
 * Makes them, below the engine's own directories, where overlays can be mounted. What runs that were killed have left is removed.
 * Errors: ERR_BENCH_OPTION for a file that does not exist, ERR_BENCH_MISSING (not built), ERR_BENCH_PLACE.
 */
export async function makePlace(engine: Engine, kernels: KernelOptions): Promise<Place> {
  const built = path.dirname(engine.initrdPath);
  const program = path.join(built, 'bench');
  const initramfs = path.join(built, 'bench.cpio');
  for (const file of [program, initramfs]) {
    if (existsSync(file)) continue;
    const what = `the benchmark's workload ${file} does not exist: build it with \`npm run build\``;
    throw new ClearVMError('ERR_BENCH_MISSING', what);
  }
  for (const file of [kernels.qemuKernel, kernels.qemuInitrd, kernels.firecrackerKernel]) {
    if (file === undefined || existsSync(file)) continue;
    throw new ClearVMError('ERR_BENCH_OPTION', `there is no file ${file}: name another`);
  }
  const made: string[] = [];
  const make = async (parent: string): Promise<string> => {
    mkdirSync(parent, { recursive: true, mode: 0o711 });
    await removeStale(parent);
    const directory = mkdtempSync(path.join(parent, `${PREFIX}${process.pid}-`));
    made.push(directory);
    return directory;
  };
  try {
    const directory = await make(engine.root);
    const rootDirectory = path.join(directory, 'rootfs');
    for (const name of ['proc', 'dev', 'sys', 'volume']) {
      mkdirSync(path.join(rootDirectory, name), { recursive: true });
    }
    copyFileSync(program, path.join(rootDirectory, 'bench'));
    const rootArchive = path.join(directory, 'rootfs.tar');
    await execa('tar', ['-C', rootDirectory, '-cf', rootArchive, '.']);
    return {
      directory,
      runtimeDirectory: await make(engine.runtimeDir),
      program,
      initramfs,
      kernel: engine.kernelPath,
      rootArchive,
      rootDirectory,
      distributionKernel: kernels.qemuKernel ?? findKernel(),
      distributionInitrd: kernels.qemuInitrd,
      firecrackerKernel: kernels.firecrackerKernel,
    };
  } catch (cause) {
    for (const directory of made) await removeTree(directory);
    throw new ClearVMError(
      'ERR_BENCH_PLACE',
      `the benchmark's directories cannot be made: ${messageOf(cause)}`,
      { cause },
    );
  }
}

export async function removePlace({ directory, runtimeDirectory }: Place): Promise<void> {
  await removeTree(runtimeDirectory);
  await removeTree(directory);
}

/** The kernel that runs, else the last by name. */
function findKernel(): string | undefined {
  const running = `/boot/vmlinuz-${release()}`;
  if (existsSync(running)) return running;
  const all = existsSync('/boot') ? readdirSync('/boot') : [];
  const last = all
    .filter((name) => name.startsWith('vmlinuz-'))
    .sort()
    .at(-1);
  return last === undefined ? undefined : `/boot/${last}`;
}

async function removeStale(parent: string): Promise<void> {
  for (const name of readdirSync(parent)) {
    const pid = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) await removeTree(path.join(parent, name));
  }
}

/** With what is mounted in it: the engine's and podman's. */
async function removeTree(directory: string): Promise<void> {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((target) => target.startsWith(`${directory}/`));
  for (const target of mounts.reverse()) {
    await execa('umount', ['--lazy', target], { reject: false });
  }
  rmSync(directory, { recursive: true, force: true });
}
