/** A report with something of everything. */
import type { Report } from '../../../src/bench/report/types.js';
import { summarize } from '../../../src/bench/statistics.js';

const around = (value: number) => summarize([value * 0.9, value, value * 1.25]);

export const SAMPLE: Report = {
  format: 'clearvm-bench',
  version: 1,
  title: 'A <sample> & "more"',
  created: '2026-11-21T12:00:00.000Z',
  command: ['clearvm', 'bench', 'all'],
  host: {
    cpu: 'QEMU TCG CPU version 2.5+',
    cpus: 1,
    memoryMiB: 6000,
    kernel: '6.1.0-56-amd64',
    kvm: 'kvm_amd, on an emulated processor',
    node: 'v20.20.0',
    clearvm: '0.1.0',
  },
  settings: { runs: 3, workRuns: 3, warmup: 1, memoryMiB: 128, count: 4 },
  runtimes: [
    { id: 'clearvm', label: 'clearvm (forked)', kind: 'vm', version: 'this one' },
    { id: 'crun', label: 'crun', kind: 'container', version: 'crun version 1.8.1' },
    { id: 'qemu-pc', label: 'QEMU pc (BIOS)', kind: 'vm', version: 'QEMU emulator 7.2' },
    { id: 'kata', label: 'Kata Containers', kind: 'vm', missing: 'it is not installed </script>' },
  ],
  sizes: [
    { name: 'ClearVM: guest kernel', bytes: 9_876_543 },
    { name: "Workload's image", bytes: 51_200 },
  ],
  boot: [
    {
      runtime: 'clearvm',
      total: around(13.37),
      intervals: ['prepared', 'guest.entry', 'exec', 'first.output', 'cleaned'].map(
        (point, index) => ({ point, ms: around(1.5 + index) }),
      ),
    },
    {
      runtime: 'crun',
      total: around(21.4),
      intervals: [{ point: 'first.output', ms: around(21.4) }],
    },
    {
      runtime: 'qemu-pc',
      total: around(3456.7),
      intervals: [{ point: 'first.output', ms: around(3456.7) }],
    },
  ],
  memory: [
    { runtime: 'clearvm', vmMiB: 128, containers: 1, pssMiB: 8.125, pssEachMiB: 8.125 },
    { runtime: 'clearvm', vmMiB: 256, containers: 1, pssMiB: 8.25, pssEachMiB: 8.25 },
    { runtime: 'crun', vmMiB: 128, containers: 1, pssMiB: 3.2, pssEachMiB: 3.2 },
    { runtime: 'clearvm', vmMiB: 128, containers: 4, pssMiB: 17.5, pssEachMiB: 4.375 },
  ],
  density: [
    {
      runtime: 'clearvm',
      started: 4,
      stoppedBy: 'count',
      points: [1, 2, 3, 4].map((containers) => ({
        containers,
        startMs: 13 + containers / 8,
        pssMiB: 4.5 * containers,
        availableMiB: 5000 - 4.75 * containers,
      })),
    },
  ],
  io: ['host', 'clearvm', 'crun'].flatMap((runtime, index) =>
    (['root', 'volume'] as const).flatMap((where) =>
      ['write', 'find'].map((figure) => ({
        runtime,
        where,
        figure,
        amount: 1048576,
        ms: around(10 * (index + 1)),
      })),
    ),
  ),
  cpu: [
    { runtime: 'host', rounds: 1000, ms: around(202.5), slowdown: 1 },
    { runtime: 'clearvm', rounds: 1000, ms: around(204.6), slowdown: 1.01 },
  ],
  isolation: (['cpu', 'io'] as const).flatMap((victim) =>
    ['none', 'cpu', 'fork bomb'].map((neighbour, index) => ({
      runtime: 'clearvm',
      victim,
      neighbour,
      ms: around(100 + 97 * index),
      slowdown: 1 + 0.97 * index,
    })),
  ),
  skipped: [{ kind: 'io', runtime: 'qemu-pc', message: 'its kernel cannot mount <anything>' }],
  failures: [{ kind: 'boot', runtime: 'crun', message: 'ended with status 1' }],
};
