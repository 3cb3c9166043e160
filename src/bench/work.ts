/** Work inside a container: files, computing, and both beside a neighbour. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';

import type { CpuResult, Failure, IoResult, IsolationResult } from './report/types.js';
import { figuresOf, type Session } from './session.js';
import { round, summarize } from './statistics.js';
import type { Kind, Runtime, Workload } from './types.js';

const IO_MIB = 64;
const IO_FILES = 300;
const CPU_ROUNDS = 200_000_000;

/** Where files are measured: /data is in the root, /volume a directory of the host. */
const PLACES = { root: '/data', volume: '/volume/data' } as const;

const VICTIMS = {
  cpu: ['cpu', String(CPU_ROUNDS)],
  io: ['io', PLACES.volume, '16', '100'],
} as const;

/** Each fights for something; the last three are out to do harm. */
export const NEIGHBOURS: Readonly<Record<string, readonly string[]>> = {
  cpu: ['spin'],
  io: ['disk', '/volume/neighbour', '16'],
  'fork bomb': ['forks', '2000'],
  'memory bomb': ['memory', '1024'],
  'small writes': ['small', '/volume/neighbour'],
};

/** A kind of which a runtime cannot do a part. */
export type Skip = (failure: Failure) => void;

export async function measureIo(
  session: Session,
  runtimes: readonly Runtime[],
  skip: Skip,
): Promise<IoResult[]> {
  const samples = new Map<string, { entry: Omit<IoResult, 'ms'>; values: number[] }>();
  for (const [where, directory] of Object.entries(PLACES) as [IoResult['where'], string][]) {
    const workload = withVolume(session, 'io', directory, String(IO_MIB), String(IO_FILES));
    const skipHere: Skip = (what) => skip({ ...what, message: `${where}: ${what.message}` });
    await rounds(session, 'io', runtimes, workload, skipHere, (runtime, figures) => {
      for (const [figure, { ms, amount }] of figures) {
        const key = [runtime.id, where, figure].join();
        const entry = { runtime: runtime.id, where, figure, amount };
        const sample = samples.get(key) ?? { entry, values: [] };
        samples.set(key, sample);
        sample.values.push(ms);
      }
    });
  }
  return [...samples.values()].map(({ entry, values }) => ({ ...entry, ms: summarize(values) }));
}

export async function measureCpu(
  session: Session,
  runtimes: readonly Runtime[],
  skip: Skip,
): Promise<CpuResult[]> {
  const samples = new Map<string, number[]>();
  const workload = session.workload(...VICTIMS.cpu);
  await rounds(session, 'cpu', runtimes, workload, skip, (runtime, figures) => {
    samples.set(runtime.id, [...(samples.get(runtime.id) ?? []), figures.get('cpu')?.ms ?? 0]);
  });
  const host = samples.get('host');
  return [...samples].map(([runtime, values]) => {
    const ms = summarize(values);
    const slowdown = round(ms.median / (host ? summarize(host).median : ms.median));
    return { runtime, rounds: CPU_ROUNDS, ms, slowdown };
  });
}

export async function measureIsolation(
  session: Session,
  runtimes: readonly Runtime[],
  skip: Skip,
): Promise<IsolationResult[]> {
  const results: IsolationResult[] = [];
  for (const runtime of runtimes) {
    for (const victim of ['cpu', 'io'] as const) {
      let alone: number | undefined;
      for (const [neighbour, words] of [['none', []], ...Object.entries(NEIGHBOURS)] as const) {
        session.progress(`isolation: ${runtime.label}, ${victim} beside ${neighbour}`);
        const [own, other] = [
          withVolume(session, ...VICTIMS[victim]),
          withVolume(session, ...words),
        ];
        const refused = runtime.refuses(own);
        if (refused !== undefined) {
          skip({ kind: 'isolation', runtime: runtime.id, message: `${victim}: ${refused}` });
          break;
        }
        const values = await session.attempt('isolation', runtime, () =>
          beside(session, runtime, own, words.length > 0 ? other : undefined),
        );
        if (!values) continue;
        const ms = summarize(values);
        alone ??= ms.median;
        const slowdown = round(ms.median / alone);
        results.push({ runtime: runtime.id, victim, neighbour, ms, slowdown });
      }
    }
  }
  return results;
}

/** The victim's times while the neighbour does what it does. */
async function beside(
  session: Session,
  runtime: Runtime,
  victim: Workload,
  neighbour: Workload | undefined,
): Promise<number[]> {
  const started = neighbour && (await session.start(runtime, neighbour));
  const values: number[] = [];
  try {
    for (let round = 0; round < session.settings.workRuns; round++) {
      const { output } = await session.run(runtime, victim);
      values.push([...figuresOf(output).values()].reduce((sum, { ms }) => sum + ms, 0));
    }
    return values;
  } finally {
    if (started) await session.stop(started.instance);
  }
}

/** Warm-ups and rounds of a workload; each round has every runtime once. */
async function rounds(
  session: Session,
  kind: Kind,
  runtimes: readonly Runtime[],
  workload: Workload,
  skip: Skip,
  take: (runtime: Runtime, figures: ReturnType<typeof figuresOf>) => void,
): Promise<void> {
  const { workRuns: runs, warmup } = session.settings;
  const out = new Set<Runtime>();
  for (let round = 0; round < warmup + runs; round++) {
    for (const runtime of runtimes) {
      if (out.has(runtime)) continue;
      const refused = runtime.refuses(workload);
      if (refused !== undefined) {
        skip({ kind, runtime: runtime.id, message: refused });
        out.add(runtime);
        continue;
      }
      session.progress(`${kind}: round ${round + 1} of ${warmup + runs}, ${runtime.label}`);
      const done = await session.attempt(kind, runtime, () => session.run(runtime, workload));
      if (!done) out.add(runtime);
      else if (round >= warmup) take(runtime, figuresOf(done.output));
    }
  }
}

function withVolume(session: Session, ...words: string[]): Workload {
  const volume = path.join(session.place.directory, 'volume');
  mkdirSync(volume, { recursive: true });
  const needsIt = words.some((word) => word.startsWith('/volume'));
  return { ...session.workload(...words), ...(needsIt ? { volume } : {}) };
}
