// `clearvm doctor` judges hosts by what their KVM does: the emulated AMD-V host, and the machine that the tests run on.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import type { Finding } from '../../src/index.js';
import { CLI, Host, startLab } from './support.js';

interface Diagnosis {
  healthy: boolean;
  findings: Finding[];
}

const find = ({ findings }: Diagnosis, id: string) => findings.find((each) => each.id === id);

describe('on the AMD-V host', () => {
  let host: Host;
  beforeAll(async () => {
    host = new Host(await startLab());
  });
  afterAll(() => host?.close());

  test('KVM is hardware, and containers can run', async () => {
    const { status, stdout, stderr } = await host.clearvm(['doctor', '--json']);
    expect(stderr).toBe('');
    const diagnosis = JSON.parse(stdout) as Diagnosis;
    expect(diagnosis.findings.filter(({ level }) => level === 'error')).toEqual([]);
    expect(diagnosis.healthy).toBe(true);
    expect(status).toBe(0);
    for (const id of ['cpu.virtualization', 'kvm.device', 'kvm.verdict']) {
      expect(find(diagnosis, id)).toMatchObject({ level: 'ok' });
    }
    expect(find(diagnosis, 'kvm.verdict')?.message).toMatch(/hardware/);
  });

  test('without /dev/kvm and without the kernel it says what to do about each', async () => {
    const { status, stdout } = await host.shell(
      `unshare -m sh -c 'mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; exec ${process.execPath} ${CLI} doctor'`,
      { env: { CLEARVM_KERNEL: '/no/such/vmlinux' } },
    );
    expect(stdout).toMatch(/^ERROR +\/dev\/kvm does not exist\n +-> .*modprobe kvm_amd/m);
    expect(stdout).toMatch(/^ERROR +guest kernel: \/no\/such\/vmlinux.*\n +-> .*npm run build/m);
    expect(stdout).toMatch(/^Containers cannot run on this host\.$/m);
    expect(status).toBe(1);
  });
});

describe('on this machine itself', () => {
  const announced = /^flags.* (vmx|svm)\b/m.test(fs.readFileSync('/proc/cpuinfo', 'latin1'));

  test.runIf(fs.existsSync('/dev/kvm') && !announced)(
    'KVM without VT-x or AMD-V is software, and containers cannot run',
    () => {
      const { status, stdout } = spawnSync(process.execPath, [CLI, 'doctor', '--json'], {
        encoding: 'utf8',
      });
      const diagnosis = JSON.parse(stdout) as Diagnosis;
      expect(find(diagnosis, 'cpu.virtualization')).toMatchObject({ level: 'warning' });
      expect(find(diagnosis, 'kvm.device')).toMatchObject({ level: 'ok' });
      const verdict = find(diagnosis, 'kvm.verdict');
      expect(verdict).toMatchObject({
        level: 'error',
        advice: expect.stringContaining('npm run lab'),
      });
      expect(verdict?.message).toMatch(/no hardware virtualization/);
      expect(diagnosis.healthy).toBe(false);
      expect(status).toBe(1);
    },
  );
});
