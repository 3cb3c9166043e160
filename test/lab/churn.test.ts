// Many containers, twenty at a time, run and removed: the host has afterwards what it had before.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { LONG, startHost, type Host } from './support.js';

const COUNT = LONG ? 1000 : 40;
const AT_ONCE = LONG ? 20 : 10;
const LIMIT_MS = (LONG ? 120 : 9) * 60_000;

let host: Host;
beforeAll(async () => {
  host = await startHost({ commandLimitMs: LIMIT_MS });
});
afterAll(() => host?.close());

interface Report {
  count: number;
  seconds: number;
  wrong: string[];
  difference: Record<string, unknown>;
  /** What there is more of afterwards, or less; KiB, or numbers. */
  grown: Record<'inodes' | 'disk' | 'memory' | 'slab' | 'heap' | 'openFiles', number>;
}

test(`${COUNT} containers, ${AT_ONCE} at a time`, async () => {
  const { wrong, difference, grown, seconds } = await host.drive<Report>(
    'churn.mjs',
    [`${COUNT}`, `${AT_ONCE}`],
    ['--expose-gc'],
  );
  console.log(
    `${COUNT} in ${Math.round(seconds)} s; then there is more of ${JSON.stringify(grown)}`,
  );
  expect({ wrong, difference }).toEqual({ wrong: [], difference: {} });
  expect(grown.disk).toBeGreaterThanOrEqual(-64);
  expect(grown.inodes).toBeGreaterThanOrEqual(0);
});
