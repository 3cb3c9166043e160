import { expect, test } from 'vitest';

import { isCheckpoint } from '../../../src/bench/memory.js';
import { figuresOf } from '../../../src/bench/session.js';
import { quantile, summarize } from '../../../src/bench/statistics.js';

test('median, p99, least and most of values in any order', () => {
  expect(summarize([3, 1, 2])).toEqual({ runs: 3, median: 2, p99: 3, min: 1, max: 3 });
  expect(summarize([10, 2, 9, 1])).toMatchObject({ median: 5.5, p99: 10 });
  const many = Array.from({ length: 200 }, (_, i) => 200 - i);
  expect(summarize(many)).toEqual({ runs: 200, median: 100.5, p99: 198, min: 1, max: 200 });
  expect(summarize([0.12345])).toEqual({
    runs: 1,
    median: 0.123,
    p99: 0.123,
    min: 0.123,
    max: 0.123,
  });
});

test('values are compared as numbers, and left as they are', () => {
  const values = [100, 9, 20];
  expect(quantile(values, 0)).toBe(9);
  expect(values).toEqual([100, 9, 20]);
  expect(() => summarize([])).toThrow(RangeError);
});

test('figures are read from what a workload prints, from a serial console as well', () => {
  const output =
    'Booting...\r\nclearvm-bench ready\r\nclearvm-bench write 1500000 4096\r\nclearvm-bench find 42 7\nclearvm-bench find x y\n clearvm-bench read 1 1\n';
  expect([...figuresOf(output)]).toEqual([
    ['write', { ms: 1.5, amount: 4096 }],
    ['find', { ms: 0.000042, amount: 7 }],
  ]);
});

test('density looks at the first and the last container, and at about twenty between', () => {
  for (const count of [1, 7, 100, 1000]) {
    const seen = Array.from({ length: count }, (_, i) => i + 1).filter((n) =>
      isCheckpoint(n, count),
    );
    expect(seen[0]).toBe(1);
    expect(seen.at(-1)).toBe(count);
    expect(seen.length).toBeLessThanOrEqual(22);
  }
});
