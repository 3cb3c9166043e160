// What an AMD-V lab boots: Debian's stock kernel, and an initramfs of our init and the modules it needs.

import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cached, findProgram, LabError, note, runProgram } from './cache.mjs';
import { appendFiles } from './files.mjs';

const KERNEL_PACKAGE = 'linux-image-amd64';

/** In the order in which they are asked for; modprobe adds what they depend on. */
const MODULES = [
  'virtio_pci', // every device of the lab's own machine
  'virtio_console', // the channel to the caller
  '9p', // the build machine's file system
  '9pnet_virtio',
  'overlay', // the lab's root, and containers' roots
  'kvm_amd',
  'tun', // taps
  'vhost_net',
  'vhost_vsock', // peers that use the kernel's vsock
];

const INIT = fileURLToPath(new URL('init', import.meta.url));
const TSC = fileURLToPath(new URL('tsc.c', import.meta.url));
const SELF = fileURLToPath(import.meta.url);

/**
 * Fetches Debian's kernel. Other modules can be loaded inside a lab by modprobe: the whole tree is kept.
 *
 * @returns {Promise<{vmlinux: string, release: string, modules: string}>} the uncompressed kernel, its release, and
 *   the directory that belongs at /lib/modules/RELEASE
 * @throws {LabError} ERR_LAB_BUILD if the package cannot be had
 */
export async function prepareKernel() {
  // The version of the package is not part of the key: asking apt takes longer than a lab's start, and a
  // kernel that works does not have to change under the tests. Removing the directory fetches anew.
  const directory = await cached('kernel', [KERNEL_PACKAGE, 'vmlinux'], async (at) => {
    note(`fetching Debian's kernel (${KERNEL_PACKAGE}), once`);
    const depends = await runProgram('apt-cache', ['depends', '--important', KERNEL_PACKAGE]);
    const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
    if (!name) {
      throw new LabError('ERR_LAB_BUILD', `apt knows no ${KERNEL_PACKAGE}. Run: apt-get update`);
    }
    // Without a sandbox user apt does not complain that it cannot write here.
    await runProgram('apt-get', ['-o', 'APT::Sandbox::User=root', 'download', name], { cwd: at });
    const archive = readdirSync(at).find((file) => file.endsWith('.deb'));
    await runProgram('dpkg-deb', ['-x', archive, 'package'], { cwd: at });
    rmSync(join(at, archive));
    const root = join(at, 'package');
    const [release] = readdirSync(join(root, 'lib/modules'));
    await runProgram('depmod', ['-b', root, release]);
    unpackKernel(join(root, 'boot', `vmlinuz-${release}`), join(at, 'vmlinux'));
    writeFileSync(join(at, 'release'), release);
  });
  const release = readFileSync(join(directory, 'release'), 'utf8');
  return {
    vmlinux: join(directory, 'vmlinux'),
    release,
    modules: join(directory, 'package/lib/modules', release),
  };
}

/**
 * Takes the ELF image out of a bzImage (Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length),
 * which saves the emulator the seconds that XZ takes it at every start.
 */
function unpackKernel(bzImage, target) {
  const image = readFileSync(bzImage);
  const offset = (image[0x1f1] + 1) * 512 + image.readUInt32LE(0x248);
  // The last four bytes are the unpacked size, which is no part of the XZ stream.
  const payload = image.subarray(offset, offset + image.readUInt32LE(0x24c) - 4);
  const { stdout, status, stderr } = spawnSync(findProgram('xz'), ['-dc', '--single-stream'], {
    input: payload,
    maxBuffer: 512 << 20,
  });
  if (status !== 0) {
    throw new LabError('ERR_LAB_BUILD', `xz cannot unpack ${bzImage}: ${String(stderr).trim()}`);
  }
  writeFileSync(target, stdout);
}

/**
 * Compiles the labs' init.
 *
 * @returns {Promise<string>} path of a static executable
 */
export async function prepareInit() {
  const sources = readdirSync(INIT).sort();
  const inputs = sources.map((file) => readFileSync(join(INIT, file)));
  const directory = await cached('init', inputs, async (at) => {
    const units = sources.filter((file) => file.endsWith('.c')).map((file) => join(INIT, file));
    const flags = ['-std=gnu17', '-static', '-O2', '-Wall', '-Wextra', '-Werror'];
    await runProgram('gcc', [...flags, '-o', join(at, 'init'), ...units]);
  });
  return join(directory, 'init');
}

/**
 * Measures the time stamp counter, which an emulator without an instruction clock passes on.
 *
 * @returns {Promise<string>} kHz
 */
export async function measureTsc() {
  const directory = await cached('tsc', [readFileSync(TSC)], (at) =>
    runProgram('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', join(at, 'tsc'), TSC]),
  );
  return spawnSync(join(directory, 'tsc'), { encoding: 'utf8' }).stdout.trim();
}

/**
 * Packs the initramfs of an AMD-V lab: /init, and /lab/modules in the order in which to load them.
 *
 * @param {Awaited<ReturnType<typeof prepareKernel>>} kernel
 * @returns {Promise<string>} path of an uncompressed newc archive, its size a multiple of 4
 */
export async function prepareInitramfs(kernel) {
  const init = await prepareInit();
  const inputs = [init, kernel.modules, readFileSync(SELF)];
  const directory = await cached('initramfs', inputs, async (at) => {
    const modules = join(at, 'tree/lab/modules');
    mkdirSync(modules, { recursive: true });
    copyFileSync(init, join(at, 'tree/init'));
    const base = join(kernel.modules, '../../..');
    const query = ['-d', base, '-S', kernel.release, '--show-depends', '-a', ...MODULES];
    const lines = (await runProgram('modprobe', query)).split('\n');
    const files = lines.flatMap((line) => /^insmod (\S+)/.exec(line)?.[1] ?? []);
    const order = [...new Set(files)];
    for (const file of order) copyFileSync(file, join(modules, basename(file)));
    writeFileSync(join(modules, 'order'), order.map((file) => `${basename(file)}\n`).join(''));
    const archive = openSync(join(at, 'initramfs.cpio'), 'w');
    const names = [...order.map((file) => basename(file)), 'order'];
    const paths = ['init', 'lab', 'lab/modules', ...names.map((name) => `lab/modules/${name}`)];
    await appendFiles(archive, join(at, 'tree'), paths);
    closeSync(archive);
    rmSync(join(at, 'tree'), { recursive: true });
  });
  return join(directory, 'initramfs.cpio');
}
