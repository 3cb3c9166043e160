// kill -9 at random instants across pull, create, start, exec, stop and rm, of the client, of VMMs and of monitors: what ps shows
// is true, what was told is there, every later command works, and nothing is left.
//
// CLEARVM_SEED=N repeats a run's choices; the instants depend on the machine, too.
import { randomInt } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { LONG, startHost, type Host } from './support.js';

const ROUNDS = LONG ? 200 : 10;
const LIMIT_MS = (LONG ? 120 : 9) * 60_000;

let host: Host;
beforeAll(async () => {
  host = await startHost({ commandLimitMs: LIMIT_MS });
});
afterAll(() => host?.close());

interface Report {
  tally: Record<string, number>;
  problems: string[];
  left: string[];
  lost: string[];
}

test(`${ROUNDS} instants`, async () => {
  const seed = Number(process.env.CLEARVM_SEED ?? randomInt(2 ** 32));
  console.log(`CLEARVM_SEED=${seed}`);
  const { tally, ...found } = await host.drive<Report>('faults.mjs', [`${ROUNDS}`, `${seed}`]);
  console.log(JSON.stringify(tally));
  expect(found).toMatchObject({ problems: [], left: [], lost: [] });
  expect(Object.values(tally).reduce((sum, n) => sum + n, 0)).toBe(ROUNDS);
  expect((await host.shell('clearvm run --rm busybox echo alive; clearvm ps -aq')).stdout).toBe(
    'alive\n',
  );
});
