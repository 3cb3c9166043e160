import { describe, expect, test } from 'vitest';

import { imageRows, matchesReference } from '../../../src/cli/images.js';
import { formatAge, formatBytes, formatError, formatTable } from '../../../src/cli/output.js';
import { formatTimings } from '../../../src/cli/timings.js';
import { ClearVMError } from '../../../src/errors.js';
import type { ImageSummary } from '../../../src/image/index.js';

test('tables have columns and no blanks at the ends', () => {
  expect(
    formatTable([
      ['A', 'LONG', 'C'],
      ['aaa', 'b', ''],
      ['', 'bb', 'c'],
    ]),
  ).toBe('A     LONG   C\naaa   b\n      bb     c\n');
});

test.each([
  [0, '0B'],
  [999, '999B'],
  [1000, '1kB'],
  [4_261_502, '4.26MB'],
  [124_000_000, '124MB'],
  [1_530_000_000, '1.53GB'],
])('formatBytes(%i) is %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test.each([
  ['2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z', 'Less than a second ago'],
  ['2026-01-01T00:00:00Z', '2026-01-01T00:00:01Z', '1 second ago'],
  ['2026-01-01T00:00:00Z', '2026-01-01T02:30:00Z', '2 hours ago'],
  ['2026-01-01T00:00:00Z', '2026-01-02T06:00:00Z', '30 hours ago'],
  ['2026-01-01T00:00:00Z', '2026-01-23T00:00:00Z', '3 weeks ago'],
  ['2024-01-01T00:00:00Z', '2026-01-23T00:00:00Z', '2 years ago'],
  ['2027-01-01T00:00:00Z', '2026-01-01T00:00:00Z', 'Less than a second ago'],
  ['nonsense', '2026-01-01T00:00:00Z', 'N/A'],
  [undefined, '2026-01-01T00:00:00Z', 'N/A'],
])('%s at %s was %s', (created, now, text) => {
  expect(formatAge(created, Date.parse(now))).toBe(text);
});

describe('errors', () => {
  test('are one line', () => {
    expect(formatError(new Error('a\n  b\n'))).toBe('clearvm: a b\n');
    expect(formatError('text')).toBe('clearvm: text\n');
  });

  test('bring the end of a long kernel log', () => {
    const kernelLog = Array.from({ length: 100 }, (_, index) => `line ${index}`).join('\n');
    const text = formatError(new ClearVMError('ERR_GUEST_PANIC', 'panic', { kernelLog }));
    expect(text.split('\n').slice(2, -1)).toEqual(
      Array.from({ length: 25 }, (_, index) => `  line ${75 + index}`),
    );
  });

  test('bring the kernel log, without a terminal’s commands', () => {
    const error = new ClearVMError('ERR_GUEST_PANIC', 'panic', {
      kernelLog: 'one\x1b[2J\r\n\ttwo\x9b',
    });
    expect(formatError(error)).toBe(
      "clearvm: panic\nThe last lines of the guest's kernel log:\n  one[2J\n  \ttwo\n",
    );
  });
});

describe('images', () => {
  const image = (names: string[]): ImageSummary => ({
    id: `sha256:${'a'.repeat(64)}`,
    digest: `sha256:${'b'.repeat(64)}`,
    names,
    repositoryDigests: [`debian@sha256:${'d'.repeat(64)}`],
    size: 1,
    os: 'linux',
    architecture: 'amd64',
  });
  const plain = (names: string[], pattern = '*'): string[] =>
    imageRows([image(names)])
      .filter((row) => pattern === '*' || matchesReference(row, pattern))
      .map(({ repository, tag }) => `${repository} ${tag}`);

  test('a row for each name', () => {
    expect(plain(['debian:12', 'localhost:5000/a/b:1', 'app@sha256:abc', 'r:5000/x'])).toEqual([
      'debian 12',
      'localhost:5000/a/b 1',
      'app <none>',
      'r:5000/x <none>',
    ]);
    expect(plain([])).toEqual(['<none> <none>']);
  });

  test('the digest is the registry’s where that is known, and names no second row', () => {
    const rows = imageRows([image(['debian:12', 'debian@sha256:abc', 'other:1'])]);
    expect(rows.map(({ repository, digest }) => `${repository} ${digest.slice(7, 10)}`)).toEqual([
      'debian ddd',
      'other bbb',
    ]);
  });

  test('a filter is a repository, with a tag or not', () => {
    expect(plain(['debian:12', 'debian:11', 'x/debian:1'], 'debian')).toEqual([
      'debian 12',
      'debian 11',
    ]);
    expect(plain(['debian:12', 'debian:11'], 'debian:11')).toEqual(['debian 11']);
    expect(plain(['debian:12', 'debug:11', 'x/deb:1'], 'deb*')).toEqual(['debian 12', 'debug 11']);
    expect(plain(['debian:12', 'debian:1'], '*:?')).toEqual(['debian 1']);
    expect(plain(['a.b:12', 'axb:1'], 'a.b')).toEqual(['a.b 12']);
  });
});

test('timings: since the call, and since the point before', () => {
  const text = formatTimings(
    [
      { point: 'request', at: 0 },
      { point: 'spawned', at: 1.5 },
      { point: 'started', at: 40.25 },
    ],
    112.5,
  );
  const rows = text.split('\n').map((line) => line.trim().split(/\s+/).slice(0, 3));
  expect(rows.slice(1, 5)).toEqual([
    ['-112.500', '0.000', 'node'],
    ['0.000', '112.500', 'request'],
    ['1.500', '1.500', 'spawned'],
    ['40.250', '38.750', 'started'],
  ]);
});
