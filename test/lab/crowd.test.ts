// Many forks at once: what each costs, that each answers, and that no two are alike where they must differ.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, LONG, PROJECT, startHost, type Host } from './support.js';

const COUNT = LONG ? 1000 : 40;
const KIB_EACH = 6 * 1024;
const HOST_MIB = 3072 + 6 * COUNT;
const PATIENCE_MS = 240_000 + COUNT * 6_000;

interface Drawn {
  index: number;
  from: string;
  /** In ms: the host's before the call, the guest's in whole seconds, the host's afterwards. */
  times: [number, number, number];
  drawn: string[];
  again: string[];
}

let host: Host;
beforeAll(async () => {
  host = await startHost({ memory: HOST_MIB, commandLimitMs: PATIENCE_MS });
});
afterAll(() => host?.close());

test(
  `${COUNT} idle forks cost at most 6 MiB each, do as they are told, and have nothing random in common`,
  { timeout: PATIENCE_MS },
  async () => {
    const { status, stdout, stderr } = await host.run([
      ...['sh', '-c', 'ulimit -n 100000; exec "$@"', 'sh', process.execPath],
      ...[`${PROJECT}/test/lab/drivers/crowd.mjs`, `${PROJECT}/dist/index.js`, IMAGE, `${COUNT}`],
    ]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { before, whileIdle, pss, containers } = JSON.parse(stdout) as {
      before: number;
      whileIdle: number;
      pss: number;
      containers: Drawn[];
    };
    console.log(
      `${COUNT} forks: ${Math.round((before - whileIdle) / COUNT)} KiB each of the host's memory, ${Math.round(pss / COUNT)} KiB Pss`,
    );
    expect((before - whileIdle) / COUNT).toBeLessThan(KIB_EACH);
    expect(pss / COUNT).toBeLessThan(KIB_EACH);

    expect(containers).toHaveLength(COUNT);
    for (const { from, times, drawn, again } of containers) {
      expect(from).toBe('template');
      expect(Math.floor(times[0] / 1000) * 1000).toBeLessThanOrEqual(times[1]);
      expect(times[1]).toBeLessThanOrEqual(times[2]);
      // The boot id and the host's name stay; nothing else does.
      expect(again.map((line, at) => line === drawn[at])).toEqual([
        ...[true, false, false, false, false, true, false],
      ]);
    }
    const all = containers.flatMap(({ drawn, again }) => [
      ...drawn,
      ...again.filter((line) => !drawn.includes(line)),
    ]);
    expect(all).toHaveLength(COUNT * 12);
    const alike = (lines: string[]) => lines.length - new Set(lines).size;
    // A stack's place has 22 bits: of 2,000, two may be in the same.
    const isStack = (line: string) => line.endsWith('[stack]');
    expect(alike(all.filter((line) => !isStack(line)))).toBe(0);
    expect(alike(all.filter(isStack))).toBeLessThan(5);
  },
);
