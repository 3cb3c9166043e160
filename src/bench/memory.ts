/** What idle containers take of the host's memory: one by the VM's size, several, and as many as there may be. */
import { setTimeout as sleep } from 'node:timers/promises';

import { availableMiB, pssMiB } from './processes.js';
import type { DensityResult, MemoryResult } from './report/types.js';
import type { Session } from './session.js';
import { round } from './statistics.js';
import type { Instance, Runtime, Workload } from './types.js';

/** Sizes of VMs whose memory is compared; those that the host cannot hold twice are left out. */
const VM_SIZES_MIB = [64, 128, 256, 512, 1024, 2048];
/** Containers that are looked at together: what they share counts once. */
const TOGETHER = 10;
/** A container that has said that it runs is idle a little later. */
const SETTLE_MS = 500;
/** Below this, no further container is started: a host that swaps or kills says nothing about the runtime. */
const FLOOR_MIB = 512;
const FLOOR_SHARE = 0.1;

const IDLE = ['idle'];

/** Sizes that `prepare` makes templates for. */
export function memorySizes(chosenMiB: number): number[] {
  const most = availableMiB() / 2;
  return [...new Set([...VM_SIZES_MIB.filter((size) => size <= most), chosenMiB])].sort(
    (a, b) => a - b,
  );
}

export async function measureMemory(
  session: Session,
  runtimes: readonly Runtime[],
): Promise<MemoryResult[]> {
  const { memoryMiB } = session.settings;
  const count = Math.min(TOGETHER, session.settings.count);
  const results: MemoryResult[] = [];
  for (const runtime of runtimes) {
    const measure = async (vmMiB: number, containers: number): Promise<void> => {
      session.progress(`memory: ${runtime.label}, ${containers} of ${vmMiB} MiB`);
      const result = await session.attempt('memory', runtime, () =>
        idlePss(session, runtime, { words: IDLE, memoryMiB: vmMiB }, containers),
      );
      if (result) results.push(result);
    };
    for (const size of runtime.hasMemorySize ? memorySizes(memoryMiB) : [memoryMiB]) {
      await measure(size, 1);
    }
    if (count > 1) await measure(memoryMiB, count);
  }
  return results;
}

async function idlePss(
  session: Session,
  runtime: Runtime,
  workload: Workload,
  containers: number,
): Promise<MemoryResult> {
  const instances: Instance[] = [];
  try {
    for (let i = 0; i < containers; i++) {
      instances.push((await session.start(runtime, workload)).instance);
    }
    await sleep(SETTLE_MS);
    const pss = pssMiB(await allPids(instances));
    return {
      runtime: runtime.id,
      vmMiB: workload.memoryMiB,
      containers,
      pssMiB: round(pss),
      pssEachMiB: round(pss / containers),
    };
  } finally {
    for (const instance of instances) await session.stop(instance);
  }
}

async function allPids(instances: readonly Instance[]): Promise<number[]> {
  const pids = new Set<number>();
  for (const instance of instances) for (const pid of await instance.pids()) pids.add(pid);
  return [...pids];
}

/** Starts idle containers until there are `count`, or until the host's memory comes to an end. */
export async function measureDensity(
  session: Session,
  runtimes: readonly Runtime[],
): Promise<DensityResult[]> {
  const results: DensityResult[] = [];
  for (const runtime of runtimes) {
    const result = await session.attempt('density', runtime, () => fill(session, runtime));
    if (result) results.push(result);
  }
  return results;
}

async function fill(session: Session, runtime: Runtime): Promise<DensityResult> {
  const { count } = session.settings;
  const floor = Math.max(FLOOR_MIB, availableMiB() * FLOOR_SHARE);
  const instances: Instance[] = [];
  const points: DensityResult['points'] = [];
  let stoppedBy: DensityResult['stoppedBy'] = 'count';
  try {
    while (instances.length < count) {
      session.progress(`density: ${runtime.label}, ${instances.length + 1} of ${count}`);
      if (availableMiB() < floor) {
        stoppedBy = 'memory';
        break;
      }
      const started = await session.attempt('density', runtime, () =>
        session.start(runtime, session.workload(...IDLE)),
      );
      if (!started) {
        stoppedBy = 'failure';
        break;
      }
      instances.push(started.instance);
      if (!isCheckpoint(instances.length, count)) continue;
      await sleep(SETTLE_MS);
      points.push({
        containers: instances.length,
        startMs: round(started.ms),
        pssMiB: round(pssMiB(await allPids(instances))),
        availableMiB: round(availableMiB()),
      });
    }
    return { runtime: runtime.id, started: instances.length, stoppedBy, points };
  } finally {
    for (const instance of instances) await session.stop(instance);
  }
}

/** About twenty points on the way, and the first and the last: looking at memory takes longer than a start. */
export function isCheckpoint(containers: number, count: number): boolean {
  return containers === 1 || containers === count || containers % Math.ceil(count / 20) === 0;
}
