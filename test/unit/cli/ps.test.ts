import { describe, expect, test } from 'vitest';

import { formatDuration, formatStatus, psFields } from '../../../src/cli/ps-format.js';
import { psTable } from '../../../src/cli/ps-format.js';
import { formatRows } from '../../../src/cli/template.js';
import { renderTemplate } from '../../../src/cli/template.js';
import { parseTime } from '../../../src/cli/time.js';
import type { ContainerSummary } from '../../../src/engine/list.js';

const S = 1000;
const M = 60 * S;
const H = 60 * M;
const D = 24 * H;

describe('durations, as docker says them', () => {
  test.each([
    [0, 'Less than a second'],
    [S, '1 second'],
    [59 * S, '59 seconds'],
    [M, 'About a minute'],
    [119 * S, 'About a minute'],
    [2 * M, '2 minutes'],
    [59 * M, '59 minutes'],
    [H, 'About an hour'],
    [89 * M, 'About an hour'],
    [90 * M, '2 hours'],
    [47 * H, '47 hours'],
    [2 * D, '2 days'],
    [13 * D, '13 days'],
    [14 * D, '2 weeks'],
    [60 * D, '2 months'],
    [3 * 365 * D, '3 years'],
  ])('%i', (ms, text) => expect(formatDuration(ms)).toBe(text));
});

const now = Date.parse('2026-01-01T01:00:00Z');
const container = {
  ...{ version: 1, id: '0123456789abcdef'.repeat(4), name: 'web' },
  ...{ created: '2026-01-01T00:59:00Z', image: { reference: 'debian:12', id: 'sha256:x' } },
  args: ['sh', '-c', 'echo "a"; sleep 1000'],
  labels: { a: '1', b: '' },
  mounts: [],
  state: {
    ...{ status: 'running', pid: 1, startedAt: '2026-01-01T00:59:30Z' },
    ...{ finishedAt: '2026-01-01T00:59:50Z', exitCode: 3, error: '', restarts: 0 },
  },
} as unknown as ContainerSummary;

test.each([
  ['running', 'Up 30 seconds'],
  ['paused', 'Up 30 seconds (Paused)'],
  ['created', 'Created'],
  ['restarting', 'Restarting (3) 10 seconds ago'],
  ['exited', 'Exited (3) 10 seconds ago'],
] as const)('a container that is %s', (status, text) => {
  expect(formatStatus({ ...container, state: { ...container.state, status } }, now)).toBe(text);
});

describe('formats', () => {
  const rows = [psFields(container, { whole: false, now })];

  test('table', () => {
    expect(formatRows(rows, 'table', psTable(false))).toBe(
      'CONTAINER ID   IMAGE       COMMAND                    CREATED              STATUS          PORTS   NAMES\n' +
        '0123456789ab   debian:12   "sh -c \'echo \\"a\\"; sl…"   About a minute ago   Up 30 seconds           web\n',
    );
  });

  test('json has docker’s fields', () => {
    const row = JSON.parse(formatRows(rows, 'json', psTable(false))) as Record<string, string>;
    expect(row).toMatchObject({
      ID: '0123456789ab',
      Names: 'web',
      State: 'running',
      Labels: 'a=1,b=',
    });
  });

  test.each([
    ['{{.ID}} {{ .Names }}', '0123456789ab web\n'],
    ['table {{.Names}}\\t{{.Status}}', 'NAMES   STATUS\nweb     Up 30 seconds\n'],
    ['{{json .Names}}', '"web"\n'],
  ])('%s', (format, text) => expect(formatRows(rows, format, psTable(false))).toBe(text));

  test.each(['{{.Nothing}}', '{{if .ID}}x', '{{.ID.x}}', '{{.ID', '{{frob .ID}}'])(
    'no format: %s',
    (format) => {
      expect(() => formatRows(rows, format, psTable(false))).toThrow(
        expect.objectContaining({ code: 'ERR_USAGE' }),
      );
    },
  );

  test('fields of fields', () => {
    const fields = { State: { Pid: 3, Health: null }, Args: ['a'] };
    expect(renderTemplate('{{.State.Pid}} {{.State.Health}} {{json .Args}}', fields, 'x')).toBe(
      '3 <nil> ["a"]',
    );
  });
});

describe('times of --since', () => {
  test.each([
    ['2026-01-31T12:00:00Z', '2026-01-31T12:00:00.000000000Z'],
    ['2026-01-31T12:00:00.123456789Z', '2026-01-31T12:00:00.123456789Z'],
    ['2026-01-31T12:00:00.5+02:00', '2026-01-31T10:00:00.500000000Z'],
    ['1767225600', '2026-01-01T00:00:00.000000000Z'],
    ['1767225600.25', '2026-01-01T00:00:00.250000000Z'],
    ['90m', '2025-12-31T23:30:00.000000000Z'],
    ['1h30m10s', '2025-12-31T23:29:50.000000000Z'],
  ])('%s', (text, time) => expect(parseTime(text, 'since', 'logs', now)).toBe(time));

  test.each(['yesterday', '', '2026-13-01T00:00:00Z'])('no time: %s', (text) => {
    expect(() => parseTime(text, 'since', 'logs', now)).toThrow(/--since is a time/);
  });
});
