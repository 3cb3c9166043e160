// The VMM on an emulated Intel machine: KVM there has other rules for what a guest's state may be, and without EPT another
// way to give it memory.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { beforeAll, describe, expect, test } from 'vitest';
import { Lab } from '../../scripts/lab/machine.mjs';
import { prepareVtxKernel } from '../../scripts/lab/vtx-kernel.mjs';
import { SpecTag, TlvWriter } from '../../src/vm/protocol.js';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const VMM = join(PROJECT, 'build/Release/clearvm-vmm');
const CLI = join(PROJECT, 'dist/cli/main.js');
const MINUTES_20 = 1_200_000;

function onVtx(hostOptions: string[], ...vmmOptions: string[]) {
  const guest = join(PROJECT, 'build/guest');
  return execa(
    process.execPath,
    [
      join(PROJECT, 'scripts/lab/main.mjs'),
      ...['--host', 'vtx', ...hostOptions, '--timeout', '240'],
      ...['--file', `${guest}/vmlinux:/vmlinux`, '--file', `${guest}/initramfs.cpio:/initramfs`],
      ...['--', VMM, ...vmmOptions],
    ],
    { reject: false },
  );
}

beforeAll(async () => {
  await prepareVtxKernel();
}, MINUTES_20);

describe('our kernel boots to init', () => {
  test.each([
    ['with EPT', [], '1'],
    ['with EPT, two vCPUs', [], '2'],
    ['with shadow page tables', ['--no-ept'], '1'],
    ['with shadow page tables, two vCPUs', ['--no-ept'], '2'],
    ['on a processor that never had EPT', ['--cpu', 'core2_penryn_t9600'], '1'],
  ])('%s', async (_, hostOptions, cpus) => {
    const { exitCode, stdout, stderr } = await onVtx(
      hostOptions,
      ...['--kernel', '/vmlinux', '--initrd', '/initramfs', '--boot-only'],
      ...['--memory', '128m', '--cpus', cpus],
    );
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^init +[\d.]+ ms\nagent\.ready +[\d.]+ ms$/m);
    expect(exitCode).toBe(0);
  });
});

describe('a VM is forked from a template, and goes on', () => {
  // init, given a root without any program, says that it cannot find one.
  const spec = new TlvWriter()
    .add(SpecTag.ROOT, 'tmpfs\0root\0\0')
    .add(SpecTag.ARG, '/nowhere')
    .add(SpecTag.CWD, '/')
    .finish();

  test.each([
    ['with EPT', [], '1'],
    ['with EPT, two vCPUs', [], '2'],
    ['with shadow page tables', ['--no-ept'], '1'],
  ])('%s', async (_, hostOptions, cpus) => {
    const directory = mkdtempSync(join(tmpdir(), 'clearvm-vtx-'));
    try {
      writeFileSync(join(directory, 'spec'), spec);
      const guest = join(PROJECT, 'build/guest');
      const vmm = `/vmm --kernel /vmlinux --initrd /initramfs --memory 128m --cpus ${cpus} --unserved root --jail none`;
      const { stdout, stderr, exitCode } = await execa(
        process.execPath,
        [
          join(PROJECT, 'scripts/lab/main.mjs'),
          ...['--host', 'vtx', ...hostOptions, '--timeout', '240'],
          ...[
            '--file',
            `${guest}/vmlinux:/vmlinux`,
            '--file',
            `${guest}/initramfs.cpio:/initramfs`,
          ],
          ...[
            '--file',
            `${VMM}:/vmm`,
            '--file',
            `${directory}/spec:/spec`,
            '--file',
            '/bin/busybox',
          ],
          ...['--', '/bin/busybox', 'sh', '-c'],
          `${vmm} --template-save /t && ${vmm} --template /t --boot-only && ${vmm} --template /t --spec /spec`,
        ],
        { reject: false },
      );
      expect(stdout).toMatch(/^restored +[\d.]+ ms$/m);
      expect(stdout).not.toMatch(/^init /m);
      expect(stderr).toMatch(/^clearvm-vmm: exec.*\/nowhere.*no such file or directory$/m);
      expect(exitCode).toBe(127);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe('the probe tells', () => {
  test.each([
    ['with EPT', []],
    ['without', ['--no-ept']],
  ])('VT-x hardware, %s', async (_, hostOptions) => {
    const { exitCode, stdout } = await onVtx(hostOptions, '--probe');
    expect(stdout).toMatch(/^kvm: hardware$/m);
    expect(stdout).not.toContain('FAILED');
    expect(exitCode).toBe(0);
  });

  test('AMD-V hardware, and so does doctor', async () => {
    await using lab = await Lab.start({ memory: 1024, shares: [PROJECT] });
    const probe = await lab.run([VMM, '--probe']);
    expect(probe.stdout.toString()).toMatch(/^kvm: hardware$/m);
    expect(probe.stdout.toString()).not.toContain('FAILED');
    expect(probe.status).toBe(0);
    const doctor = await lab.run([process.execPath, CLI, 'doctor']);
    expect(doctor.stdout.toString()).not.toMatch(/^ERROR/m);
    expect(doctor.status).toBe(0);
  });

  test('what this machine is, and so does doctor', async () => {
    // By another way: a KVM on a processor that announces neither VT-x nor AMD-V can only be an imitation.
    const announced = /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
    const verdict = !existsSync('/dev/kvm') ? 'unusable' : announced ? 'hardware' : 'software';
    const probe = await execa(VMM, ['--probe'], { reject: false });
    expect(probe.stdout.split('\n')[0]).toBe(`kvm: ${verdict}`);
    expect(probe.exitCode).toBe(verdict === 'hardware' ? 0 : 1);
    const doctor = await execa(process.execPath, [CLI, 'doctor'], { reject: false });
    const complaint = /^ERROR +\/dev\/kvm (.*)$/m.exec(doctor.stdout)?.[1];
    if (verdict === 'hardware') expect(complaint).toBeUndefined();
    if (verdict === 'software') expect(complaint).toMatch(/no hardware virtualization/);
    if (verdict === 'unusable') expect(complaint).toBeDefined();
    if (verdict !== 'hardware') expect(doctor.exitCode).toBe(1);
  });
});
