// The benchmark against real runtimes: what it measures is sane, and nothing of it stays.
import { writeFileSync, rmSync, mkdtempSync, mkdirSync } from 'node:fs';
import path from 'node:path';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { readReport } from '../../src/bench/report/read.js';
import type { Report } from '../../src/bench/report/types.js';
import { Host, PROJECT, startLab } from './support.js';

let host: Host;
let directory: string;
beforeAll(async () => {
  mkdirSync(path.join(PROJECT, 'build/bench'), { recursive: true });
  directory = mkdtempSync(path.join(PROJECT, 'build/bench/test-'));
  host = new Host(await startLab());
});
afterAll(async () => {
  await host?.close();
  rmSync(directory, { recursive: true, force: true });
});

/** Every process, mount and control group, and what there is where engines keep things. */
async function traces(): Promise<string> {
  const { stdout } = await host.shell(`
    grep -lE '^(clearvm-vmm|clearvm-spare|bench|runc|crun|qemu-system-x86)' /proc/[0-9]*/comm
    grep -E ' /(var/lib|run)/clearvm/' /proc/mounts
    find /sys/fs/cgroup -name '*clearvm-bench*'; find /run/runc /run/crun -mindepth 1 2>/dev/null
    find /var/lib/clearvm /run/clearvm -mindepth 1 -not -name kvm-verdict.json 2>/dev/null`);
  return stdout;
}

async function bench(...args: string[]): Promise<Report> {
  const { stdout, stderr, status } = await host.clearvm(['bench', '--json', ...args]);
  const file = path.join(directory, 'report.json');
  expect(stderr).toBe('');
  writeFileSync(file, stdout);
  const report = readReport(file);
  expect({ status, failures: report.failures }).toEqual({ status: 0, failures: [] });
  return report;
}

test('bench boot measures ClearVM, runc, crun and QEMU, and leaves nothing', async () => {
  expect(await traces()).toBe('');
  const ids = ['clearvm', 'clearvm-spare', 'crun', 'runc', 'qemu-microvm'];
  const report = await bench(
    ...['boot', '--runs', '2', '--warmup', '1', '--runtimes', [...ids, 'firecracker'].join()],
  );
  expect(report.host.kvm).toBe('kvm_amd, on an emulated processor');
  expect(report.runtimes.filter(({ version }) => version).map(({ id }) => id)).toEqual(ids);
  expect(report.runtimes.at(-1)).toMatchObject({
    id: 'firecracker',
    missing: 'firecracker is not installed',
  });
  expect(report.boot?.map(({ runtime }) => runtime)).toEqual(ids);
  for (const { total, intervals } of report.boot ?? []) {
    expect(total).toMatchObject({ runs: 2 });
    expect(total.min).toBeGreaterThan(0);
    expect(total.max).toBeGreaterThanOrEqual(total.median);
    expect(intervals.map(({ point }) => point)).toContain('first.output');
  }
  // Forked: it never saw a kernel boot.
  const points = report.boot?.[0]?.intervals.map(({ point }) => point);
  expect(points).toEqual(expect.arrayContaining(['restored', 'guest.entry', 'exec', 'cleaned']));
  expect(points).not.toContain('kernel.loaded');
  expect(report.sizes.map(({ name }) => name)).toContain('ClearVM: template');
  expect(await traces()).toBe('');
});

test('what is called off in the middle leaves nothing', async () => {
  const started = host.start(['bench', 'density', '--count', '500', '--runtimes', 'crun']);
  // Idle containers are there.
  await host.shell('until grep -lsx bench /proc/[0-9]*/comm; do sleep 0.2; done');
  await started.signal('TERM');
  const { status, stderr } = await started.result;
  expect(status).toBe(143);
  expect(stderr).toMatch(/SIGTERM: everything has been removed/);
  expect(await traces()).toBe('');
});
