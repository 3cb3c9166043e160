import { describe, expect, test } from 'vitest';

import { encodeHealth, mergeHealth, parseDuration } from '../../../src/engine/health.js';
import { imageVolumes } from '../../../src/engine/volumes.js';
import type { OciSpec } from '../../../src/vm/spec.js';

test.each([
  ['30s', 30_000],
  ['1m30s', 90_000],
  ['1.5h', 5_400_000],
  ['500ms', 500],
  ['250us', 0.25],
  ['0', 0],
  [1234, 1234],
  ['30', undefined],
  ['', undefined],
  ['1d', undefined],
  [-1, undefined],
  [Number.NaN, undefined],
])('the duration %j is %j ms', (text, ms) => expect(parseDuration(text)).toBe(ms));

describe('mergeHealth', () => {
  const defaults = {
    interval: 30_000,
    timeout: 30_000,
    startPeriod: 0,
    startInterval: 5_000,
    retries: 3,
  };
  const image = { Healthcheck: { Test: ['CMD-SHELL', 'true'], Interval: 5e9, Retries: 7 } };

  test.each([
    ['nothing', {}, undefined, undefined],
    [
      'the image',
      image,
      undefined,
      { ...defaults, test: ['CMD-SHELL', 'true'], interval: 5_000, retries: 7 },
    ],
    ['none of it', image, false as const, undefined],
    ['NONE', { Healthcheck: { Test: ['NONE'] } }, undefined, undefined],
    ['times without a command', {}, { interval: '1s' }, undefined],
    [
      'options over the image',
      image,
      { cmd: ['a', 'b'], interval: '1m', startPeriod: 2000 },
      { ...defaults, test: ['CMD', 'a', 'b'], interval: 60_000, startPeriod: 2_000, retries: 7 },
    ],
    ['a line', {}, { cmd: 'a b' }, { ...defaults, test: ['CMD-SHELL', 'a b'] }],
    [
      'the shell of the image',
      { ...image, Shell: ['bash', '-c'] },
      undefined,
      { ...defaults, test: ['CMD', 'bash', '-c', 'true'], interval: 5_000, retries: 7 },
    ],
  ])('%s', (_, theirs, options, expected) =>
    expect(mergeHealth(theirs, options)).toEqual(expected),
  );

  test.each([
    [{ cmd: 'a', interval: 'soon' }, /interval "soon" is no duration/],
    [{ cmd: 'a', timeout: '10us' }, /cannot be less than 1ms/],
    [{ cmd: 'a', startPeriod: '9999999h' }, /longer than 100 years/],
  ])('%j is refused', (options, message) => {
    expect(() => mergeHealth({}, options)).toThrow(message);
    expect(() => mergeHealth({}, options)).toThrow(
      expect.objectContaining({ code: 'ERR_HEALTHCHECK' }),
    );
  });

  test('the monitor gets numbers and the spec of a process without a terminal', () => {
    const spec = {
      process: { args: ['x'], env: ['A=b'], cwd: '/', user: { uid: 0, gid: 0 }, terminal: true },
    } as unknown as OciSpec;
    const value = encodeHealth({ ...defaults, test: ['CMD-SHELL', 'a b'] }, spec);
    expect(value.readBigUInt64LE(0)).toBe(30_000n);
    expect(value.readUInt32LE(32)).toBe(3);
    expect(value.subarray(36).toString('latin1')).toMatch(/\/bin\/sh.*-c.*a b.*A=b/s);
  });
});

test('volumes of the image, where nothing else was asked for', () => {
  const image = {
    Volumes: { '/data/': {}, rel: {}, '/taken': {}, '/tmpfs': {}, '/': {}, '/data': {} },
  };
  const volumes = imageVolumes(image, [{ target: '/taken' }], ['/tmpfs/:size=1m']);
  expect(volumes.map(({ target, name, type }) => [target, name, type])).toEqual([
    ['/data', '', 'volume'],
    ['/rel', '', 'volume'],
  ]);
});
