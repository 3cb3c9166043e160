// Guests of every size that we promise, and VMs under the control of their engine.

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { busyboxImage } from '../../scripts/images.mjs';
import type { Lab } from '../../scripts/lab/machine.mjs';
import { PROJECT, startLab } from './support.js';

const GUEST = join(PROJECT, 'build/guest');
const BOOT = [
  join(PROJECT, 'build/Release/clearvm-vmm'),
  ...['--kernel', `${GUEST}/vmlinux`, '--initrd', `${GUEST}/initramfs.cpio`, '--boot-only'],
];
const CLEARVM = [process.execPath, join(PROJECT, 'dist/cli/main.js')];

let lab: Lab;
let image: Awaited<ReturnType<typeof busyboxImage>>;

beforeAll(async () => {
  image = await busyboxImage();
  lab = await startLab();
  const { status, stderr } = await lab.run([...CLEARVM, 'load', '-i', image.archive]);
  expect([status, stderr.toString()]).toEqual([0, '']);
});
afterAll(() => lab?.close());

async function boot(...options: string[]) {
  const { status, stdout, stderr } = await lab.run([...BOOT, ...options]);
  expect(stderr.toString()).toBe('');
  expect(stdout.toString()).toMatch(/^agent\.ready +[\d.]+ ms$/m);
  expect(status).toBe(0);
}

async function inContainer(options: string[], ...command: string[]): Promise<string> {
  const { status, stdout, stderr } = await lab.run([
    ...CLEARVM,
    ...['run', '--rm', ...options, image.name],
    ...command,
  ]);
  expect([status, stderr.toString()]).toEqual([0, '']);
  return stdout.toString();
}

describe.each([1, 2, 4, 8, 32])('%i vCPUs', (cpus) => {
  test('boot', () => boot('--cpus', String(cpus)));

  test('are what the container has, and each of them runs', async () => {
    // taskset fails for a CPU that is not online.
    const script = 'nproc; i=0; while taskset -c $i true; do i=$((i+1)); done 2>/dev/null; echo $i';
    const said = await inContainer(['--cpus', String(cpus)], 'sh', '-c', script);
    expect(said).toBe(`${cpus}\n${cpus}\n`);
  });
});

const GIB = 2 ** 30;

describe.each([
  ['64m', GIB / 16],
  ['512m', GIB / 2],
  ['2g', 2 * GIB],
  // Those that reach beyond the hole below 4 GiB; the last is more than the host has.
  ['3400m', 3400 * 2 ** 20],
  ['5g', 5 * GIB],
])('%s of memory', (size, bytes) => {
  test('boot', () => boot('--memory', size));

  test('are what the container has', async () => {
    const meminfo = await inContainer(['--memory', size], 'cat', '/proc/meminfo');
    const total = Number(/^MemTotal: +(\d+) kB$/m.exec(meminfo)?.[1]) * 1024;
    // Not counted: the kernel's code; its page structures, 1/64 of the memory; hash tables that grow with it.
    expect(total).toBeLessThan(bytes);
    expect(total).toBeGreaterThan(bytes * (1 - 1 / 50) - 20 * 2 ** 20);
  });
});

test('what is stored above the 4 GiB line stays what it was', async () => {
  // Linux takes memory from there last (patch 0018): fallocate takes the rest away and touches none of it.
  const script = `fallocate -l 3150m /dev/shm/rest; cat /proc/zoneinfo; yes | head -c 128000000 > /dev/shm/file
    echo after; cat /proc/zoneinfo; sha256sum < /dev/shm/file`;
  const options = ['--memory', '5g', '--shm-size', '4g'];
  const said = await inContainer(options, 'sh', '-c', script);
  const [before, after] = said.split('after\n').map((text) => {
    return Number(/^ +spanned +(\d+)$/m.exec(text)?.[1]) * 4096;
  }) as [number, number];
  expect(before).toBeLessThan(4 * GIB);
  expect(after - 4 * GIB).toBeGreaterThan(50e6);
  const expected = createHash('sha256').update(Buffer.alloc(128e6, 'y\n')).digest('hex');
  expect(said.trimEnd().split('\n').at(-1)).toBe(`${expected}  -`);
});

test('pause stops a VM, resume lets it go on, stop ends it', async () => {
  const script = `set -e
    mkdir -p /var/lib/clearvm/control/layers /var/lib/clearvm/control/state/upper
    mkdir /var/lib/clearvm/control/state/work
    cp -a "$1" /var/lib/clearvm/control/layers/root
    exec "$2" "$3" /var/lib/clearvm/control/layers root /var/lib/clearvm/control/state`;
  const { status, stdout, stderr } = await lab.run([
    ...['sh', '-c', script, 'sh', image.root, process.execPath],
    join(PROJECT, 'test/lab/control_inside.mjs'),
  ]);
  expect(stderr.toString()).toBe('');
  expect(JSON.parse(stdout.toString())).toMatchObject({
    beforePause: true,
    secondPause: 'ERR_ALREADY',
    secondResume: 'ERR_ALREADY',
    whilePaused: 0,
    exitsWhilePaused: 0,
    afterResume: true,
    afterManyPauses: true,
    guestMemory: 2 ** 27,
    exitsCounted: true,
    unknownRequest: 'ERR_VMM_REQUEST',
    wrongSignal: 'ERR_VMM_REQUEST',
    secondStart: 'ERR_ALREADY',
    exited: 'ERR_VMM_ENDED',
    ordered: true,
    requestAfterEnd: 'ERR_VMM_GONE',
  });
  expect(status).toBe(0);
});
