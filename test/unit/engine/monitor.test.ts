import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import * as ours from '../../../src/engine/monitor-protocol.js';

const header = readFileSync(
  new URL('../../../native/protocol/monitor.h', import.meta.url),
  'utf8',
).replace(/\/\*[\s\S]*?\*\//g, '');

/** An enum's or a family of defines' members, without the prefix. */
function members(pattern: RegExp, text = header): Record<string, number> {
  return Object.fromEntries(
    [...text.matchAll(pattern)].map(([, name = '', value]) => [name, Number(value)]),
  );
}

const bodyOf = (name: string): string =>
  new RegExp(`enum ${name} \\{([^}]*)\\}`).exec(header)?.[1] ?? '';

test.each([
  ['clearvm_monitor_tag', /CLEARVM_MONITOR_(\w+) = (\d+)/g, ours.MonitorTag],
  ['clearvm_restart', /CLEARVM_RESTART_(\w+) = (\d+)/g, ours.Restart],
  ['clearvm_monitor_frame_type', /CLEARVM_MONITOR_(\w+) = (0x[0-9a-f]+|\d+)/g, ours.MonitorFrame],
])('%s has the same names and numbers on both sides', (name, pattern, mine) => {
  expect(members(pattern, bodyOf(name))).toEqual(mine);
});

test('flags and limits agree', () => {
  expect(members(/#define CLEARVM_STDIO_(\w+) (\d+)u/g)).toEqual(ours.StdioFlag);
  expect(members(/#define CLEARVM_ATTACH_(\w+) (\d+)u/g)).toEqual(ours.AttachFlag);
  expect(header).toContain('CLEARVM_MONITOR_FRAME_MAX (64u * 1024)');
  expect(ours.MONITOR_FRAME_MAX).toBe(64 * 1024);
});
