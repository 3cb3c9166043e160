import { describe, expect, test } from 'vitest';

import { formatProcesses } from '../../../src/cli/top.js';
import { usageCells } from '../../../src/cli/stats.js';
import {
  cpuPercent,
  parseProcesses,
  parseSample,
  type ContainerSample,
} from '../../../src/engine/running-commands.js';

/** A line of /proc/PID/stat. */
function stat(pid: number, name: string, given: Record<number, number>): string {
  const fields = Array.from({ length: 49 }, (_, i) => given[i + 4] ?? 0);
  return `${pid} (${name}) S ${fields.join(' ')}`;
}

describe('top', () => {
  const lines = [
    '100.50 42.00',
    `0\t${stat(27, 'sh', { 4: 1, 14: 250, 15: 50, 22: 50 })}\tsh -c loop`,
    `33\t${stat(40, 'a) b (c', { 4: 27, 7: 34816, 14: 360_000, 22: 10 })}\t`,
    'nonsense',
    `x\t${stat(41, 'x', {})}\tx`,
    '',
  ];

  test('reads what init says, and leaves out what is no process', () => {
    expect(parseProcesses(lines.join('\n'))).toEqual([
      {
        ...{ uid: 0, pid: 27, ppid: 1, tty: '', cpuSeconds: 3, ageSeconds: 100 },
        command: 'sh -c loop',
      },
      {
        ...{ uid: 33, pid: 40, ppid: 27, tty: 'pts/0', cpuSeconds: 3600, ageSeconds: 100.4 },
        command: '[a) b (c]',
      },
    ]);
  });

  test('prints it as docker does', () => {
    const now = new Date(2026, 1, 3, 14, 30, 0);
    const rows = formatProcesses(parseProcesses(lines.join('\n')), now).split('\n');
    expect(rows[0]).toBe(
      'UID                 PID                 PPID                C                   STIME               TTY                 TIME                CMD',
    );
    expect(rows[1]?.split(/ {2,}/)).toEqual(
      ['root', '27', '1', '3', '14:28', '?', '00:00:03', 'sh -c loop'], // prettier-ignore
    );
    expect(rows[2]?.split(/ {2,}/)).toEqual(
      ['33', '40', '27', '99', '14:28', 'pts/0', '01:00:00', '[a) b (c]'], // prettier-ignore
    );
    const yesterday = formatProcesses(parseProcesses(lines.join('\n')), new Date(2026, 1, 3, 0, 0));
    expect(yesterday).toContain('Feb02');
  });
});

describe('stats', () => {
  const text = `MemTotal:         500000 kB
MemFree:          400000 kB
MemAvailable:     420000 kB
Buffers:            1000 kB
Cached:            20000 kB
SReclaimable:       4000 kB
cpu  100 0 50 800 50 0 0 0 7 7
Tasks: 3
`;

  test('counts memory without caches, and time without idleness', () => {
    expect(parseSample(text)).toEqual({
      ...{ memory: 75_000 * 1024, tasks: 3, cpuTicks: 1000, busyTicks: 150 },
    });
    expect(parseSample('')).toEqual({ memory: 0, tasks: 0, cpuTicks: 0, busyTicks: 0 });
  });

  test('shows them as docker does', () => {
    const sample = (cpuTicks: number, busyTicks: number): ContainerSample => ({
      ...{ memory: 1.5 * 1024 * 1024, memoryLimit: 512 * 1024 * 1024, tasks: 4, cpus: 2 },
      ...{ cpuTicks, busyTicks },
    });
    const [before, after] = [sample(1000, 150), sample(1200, 300)];
    expect(cpuPercent(before, after)).toBe(150);
    expect(cpuPercent(after, after)).toBe(0);
    expect(usageCells(before, after)).toEqual([
      ...['150.00%', '1.5MiB / 512MiB', '0.29%', '0B / 0B', '0B / 0B', '4'],
    ]);
    expect(usageCells(before, undefined)).toEqual(['--', '-- / --', '--', '--', '--', '--']);
  });
});
