/** Start-up: from the request to the workload's first line. */
import { summarize } from './statistics.js';
import type { BootResult } from './report/types.js';
import type { Session } from './session.js';
import type { Runtime } from './types.js';

/** Each round starts every runtime once, so that whatever else the host does meets all of them. */
export async function measureBoot(
  session: Session,
  runtimes: readonly Runtime[],
): Promise<BootResult[]> {
  const { runs, warmup } = session.settings;
  const workload = session.workload('ready');
  const totals = new Map<Runtime, number[]>();
  const steps = new Map<Runtime, Map<string, number[]>>();
  const failed = new Set<Runtime>();
  for (let round = 0; round < warmup + runs; round++) {
    for (const runtime of runtimes) {
      if (failed.has(runtime)) continue;
      session.progress(`boot: round ${round + 1} of ${warmup + runs}, ${runtime.label}`);
      const sample = await session.attempt('boot', runtime, () => session.run(runtime, workload));
      if (!sample) failed.add(runtime);
      if (!sample || round < warmup) continue;
      append(totals, runtime, sample.ms);
      let before = 0;
      const own = steps.get(runtime) ?? new Map<string, number[]>();
      steps.set(runtime, own);
      for (const { point, at } of sample.instance.timings()) {
        if (point !== 'request') append(own, point, at - before);
        before = at;
      }
    }
  }
  return runtimes
    .filter((runtime) => totals.has(runtime) && !failed.has(runtime))
    .map((runtime) => ({
      runtime: runtime.id,
      total: summarize(totals.get(runtime) ?? []),
      intervals: [...(steps.get(runtime) ?? [])].map(([point, values]) => ({
        point,
        ms: summarize(values),
      })),
    }));
}

function append<K>(map: Map<K, number[]>, key: K, value: number): void {
  const values = map.get(key);
  if (values) values.push(value);
  else map.set(key, [value]);
}
