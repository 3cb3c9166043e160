import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import { CommandInstance } from '../../../src/bench/command.js';
import { describeKvm } from '../../../src/bench/host.js';
import { Docker, Kata, Podman } from '../../../src/bench/runtimes/engines.js';
import { HostRuntime, makeRuntimes, RUNTIME_IDS } from '../../../src/bench/runtimes/index.js';
import { bundleConfig, OciRuntime } from '../../../src/bench/runtimes/oci.js';
import {
  CloudHypervisor,
  Firecracker,
  QemuMicrovm,
  QemuPc,
} from '../../../src/bench/runtimes/vmm.js';
import type { Place, Workload } from '../../../src/bench/types.js';

let place: Place;
beforeEach(() => {
  const directory = mkdtempSync(path.join(tmpdir(), 'clearvm-bench-'));
  place = {
    directory,
    runtimeDirectory: `${directory}/run`,
    program: `${directory}/bench`,
    initramfs: `${directory}/bench.cpio`,
    kernel: '/guest/vmlinux',
    rootArchive: `${directory}/root.tar`,
    rootDirectory: `${directory}/rootfs`,
    distributionKernel: '/boot/vmlinuz',
  };
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(place.directory, { recursive: true });
});

const workload: Workload = { words: ['cpu', '1000'], memoryMiB: 256 };
const withVolume: Workload = { ...workload, volume: '/srv/volume' };
/** The word behind another. */
const after = (args: string[], word: string): string | undefined => args[args.indexOf(word) + 1];
const name = new RegExp(`^clearvm-bench-${process.pid}-\\w+-0$`);

/** A program of that name, first in the path. */
function install(program: string, script: string): void {
  writeFileSync(path.join(place.directory, program), `#!/bin/sh\n${script}\n`);
  chmodSync(path.join(place.directory, program), 0o755);
  vi.stubEnv('PATH', `${place.directory}:${process.env['PATH']}`);
}

describe('command lines', () => {
  test('QEMU microvm boots our kernel, and hands the workload on where QEMU appends nothing', () => {
    const { file, args } = new QemuMicrovm(place).command(workload);
    expect(file).toBe('qemu-system-x86_64');
    expect(after(args, '-M')).toMatch(/^microvm,acpi=off/);
    expect([after(args, '-kernel'), after(args, '-m')]).toEqual(['/guest/vmlinux', '256']);
    expect(after(args, '-append')).toMatch(/^console=hvc0 .* clearvm_bench=cpu,1000$/);
    expect(args).not.toContain('-fsdev');
    const shared = new QemuMicrovm(place).command(withVolume).args;
    expect(after(shared, '-fsdev')).toContain('path=/srv/volume,');
    expect(after(shared, '-append')).toMatch(/ clearvm_volume=1$/);
  });

  test('QEMU pc boots a distribution’s kernel by its BIOS, its initrd before the workload', async () => {
    writeFileSync(place.initramfs, 'WORKLOAD');
    writeFileSync(`${place.directory}/distribution`, 'INITRD');
    place.distributionInitrd = `${place.directory}/distribution`;
    const pc = new QemuPc(place);
    await pc.prepare();
    const { args } = pc.command(workload);
    expect([after(args, '-M'), after(args, '-kernel')]).toEqual(['pc', '/boot/vmlinuz']);
    expect(after(args, '-append')).toMatch(/^console=ttyS0 .* clearvm_bench=cpu,1000$/);
    expect(readFileSync(after(args, '-initrd') ?? '', 'latin1')).toBe('INITRD\0\0WORKLOAD');
  });

  test('Firecracker takes a configuration, Cloud Hypervisor a line', () => {
    place.firecrackerKernel = '/fc/vmlinux';
    const { file, args } = new Firecracker(place).command(workload);
    expect([file, args[0]]).toEqual(['firecracker', '--no-api']);
    expect(JSON.parse(readFileSync(after(args, '--config-file') ?? '', 'utf8'))).toMatchObject({
      'boot-source': { kernel_image_path: '/fc/vmlinux', initrd_path: place.initramfs },
      'machine-config': { vcpu_count: 1, mem_size_mib: 256 },
    });
    const cloud = new CloudHypervisor(place).command(workload);
    expect(after(cloud.args, '--memory')).toBe('size=256M');
    expect(after(cloud.args, '--cmdline')).toMatch(/clearvm_poweroff=1 clearvm_bench=cpu,1000$/);
  });

  test.each(['runc', 'crun', 'krun'] as const)('%s runs a bundle, and deletes by force', (id) => {
    const { file, args, remove } = new OciRuntime(id, place).command('c1', '/bundle');
    const own = ['--root', `${place.runtimeDirectory}/${id}`];
    expect([file, ...args]).toEqual([id, ...own, 'run', '--bundle', '/bundle', 'c1']);
    expect(remove).toEqual({ file: id, args: [...own, 'delete', '--force', 'c1'] });
  });

  test('a bundle has the limits that a VM has by itself, and the volume', () => {
    expect(bundleConfig(withVolume, '/rootfs', '/group')).toMatchObject({
      process: { args: ['/bench', 'cpu', '1000'], terminal: false },
      root: { path: '/rootfs', readonly: false },
      mounts: expect.arrayContaining([
        { destination: '/volume', type: 'bind', source: '/srv/volume', options: ['rbind', 'rw'] },
      ]),
      linux: {
        cgroupsPath: '/group',
        resources: { memory: { limit: 256 << 20 }, pids: { limit: 512 } },
      },
    });
  });

  test('podman and docker: the same words, and nothing of podman’s in its usual places', () => {
    const podman = new Podman(place).command(withVolume, 'c1');
    expect(podman.args.join(' ')).toBe(
      `--root ${place.directory}/podman --runroot ${place.runtimeDirectory}/podman run --rm --name c1 --network none ` +
        `--memory 256m --pids-limit 512 --volume /srv/volume:/volume --rootfs ${place.rootDirectory} /bench cpu 1000`,
    );
    const docker = new Docker(place).command(workload, 'c1');
    expect(docker.args.join(' ')).toBe(
      `run --rm --name c1 --network none --memory 256m --pids-limit 512 clearvm-bench:${process.pid} /bench cpu 1000`,
    );
    expect(docker.remove?.args).toEqual(['rm', '--force', 'c1']);
    expect(new Kata(place).command(workload, 'c1').args).toContain('io.containerd.kata.v2');
  });
});

describe('what is not there says why', () => {
  test.each([
    ['no program', (at: Place) => new OciRuntime('krun', at), '', /^krun is not installed$/],
    ['no kernel', (at: Place) => new QemuPc(at), 'qemu-system-x86_64', /--qemu-kernel/],
    ['no serial kernel', (at: Place) => new Firecracker(at), 'firecracker', /--firecracker-kernel/],
  ])('%s', async (_, make, program, message) => {
    vi.stubEnv('PATH', '/usr/bin/nothing');
    if (program !== '') install(program, 'echo version 1');
    delete place.distributionKernel;
    await expect(make(place).detect()).rejects.toMatchObject({
      code: 'ERR_BENCH_RUNTIME',
      message: expect.stringMatching(message),
    });
  });

  test('a daemon that does not answer', async () => {
    install('docker', 'echo "Cannot connect to the Docker daemon" >&2; exit 1');
    await expect(new Docker(place).detect()).rejects.toThrow(/Cannot connect to the Docker daemon/);
  });

  test('a name that is none', () => {
    expect(() => makeRuntimes(['runc', 'rnuc'], place)).toThrow(/"rnuc": choose of clearvm, /);
    const all = makeRuntimes(RUNTIME_IDS, place);
    expect(all.map(({ id }) => id)).toEqual(RUNTIME_IDS);
  });

  test('work that a VM without a file system cannot do', () => {
    const root: Workload = { words: ['io', '/data', '1', '1'], memoryMiB: 128 };
    expect(new QemuPc(place).refuses(withVolume)).toMatch(/cannot mount/);
    expect(new QemuMicrovm(place).refuses(withVolume)).toBeUndefined();
    expect(new QemuMicrovm(place).refuses(root)).toMatch(/in memory/);
    expect(new QemuMicrovm(place).refuses(workload)).toBeUndefined();
  });
});

describe('a program that is started', () => {
  test('is ready with its first line, and over at its end', async () => {
    install('runc', 'echo noise; echo clearvm-bench ready; echo clearvm-bench cpu 5 7');
    const instance = await new OciRuntime('runc', place).start(workload);
    const ready = await instance.ready;
    expect(ready).toBeGreaterThan(0);
    expect(await instance.ended).toContain('clearvm-bench cpu 5 7');
    expect(instance.timings().map(({ point }) => point)).toEqual([
      ...['request', 'first.output', 'cleaned'],
    ]);
    expect(instance.goneMs).toBeGreaterThanOrEqual(ready);
    const [bundle] = [path.join(place.directory, 'bundles')];
    expect(existsSync(bundle)).toBe(true);
  });

  test.each([
    ['no line', 'echo nothing; echo why >&2', /runc ended with status 0: why/],
    ['a status', 'echo clearvm-bench ready; exit 3', /status 3/],
    ['an error of the workload', 'echo clearvm-bench ready; echo clearvm-bench error x', /error x/],
  ])('fails with what it said: %s', async (_, script, message) => {
    install('runc', script);
    const instance = await new OciRuntime('runc', place).start(workload);
    await expect(instance.ended).rejects.toMatchObject({ code: 'ERR_BENCH_WORKLOAD' });
    await expect(instance.ended).rejects.toThrow(message);
  });

  test('is stopped by its own means', async () => {
    const gone = path.join(place.directory, 'gone');
    install(
      'runc',
      `case "$*" in *delete*) echo "$*" > ${gone};; *) echo clearvm-bench ready; exec sleep 1000; esac`,
    );
    const instance = await new OciRuntime('runc', place).start(workload);
    await instance.ready;
    expect(await instance.pids()).toHaveLength(1);
    await instance.stop();
    expect(readFileSync(gone, 'utf8').trim().split(' ').at(-1)).toMatch(name);
  });

  test('that is missing fails', async () => {
    const instance = new CommandInstance({ file: '/no/such/file', args: [] });
    await expect(instance.ready).rejects.toThrow(/\/no\/such\/file cannot be started/);
  });

  test('on the host, finds root and volume where they are there', async () => {
    install('bench', 'echo clearvm-bench ready; echo "$@"');
    const workload = { words: ['io', '/volume/data', '1'], memoryMiB: 1, volume: '/srv' };
    const inVolume = await new HostRuntime(place).start(workload);
    expect(await inVolume.ended).toContain('io /srv/data 1');
    const inRoot = await new HostRuntime(place).start({ words: ['io', '/data'], memoryMiB: 1 });
    expect(await inRoot.ended).toContain(`io ${place.rootDirectory}/data`);
  });
});

test('hardware virtualization is told from its emulation', () => {
  const cpu = (model: string, flags: string): string =>
    `model name\t: ${model}\nflags\t\t: ${flags}\n`;
  const amd = (module: string): boolean => module === 'kvm_amd';
  expect(describeKvm(cpu('AMD EPYC', 'svm'), amd)).toBe('kvm_amd');
  expect(describeKvm(cpu('AMD EPYC', 'svm hypervisor'), amd)).toMatch(/nested/);
  expect(describeKvm(cpu('QEMU TCG CPU version 2.5+', 'svm'), amd)).toMatch(/emulated/);
  expect(describeKvm(cpu('AMD EPYC', 'hypervisor'), () => false)).toMatch(/^no hardware/);
});
