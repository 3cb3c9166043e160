/** Runs benchmarks of containers and VMs, and makes a report of them. */
import type { Engine } from '../engine/engine.js';
import { ClearVMError, messageOf } from '../errors.js';
import { measureBoot } from './boot.js';
import { describeHost, diskSizes } from './host.js';
import { measureDensity, measureMemory, memorySizes } from './memory.js';
import { makePlace, removePlace, type KernelOptions } from './place.js';
import { REPORT_VERSION, type Failure, type Report, type RuntimeEntry } from './report/types.js';
import { HostRuntime, makeRuntimes, checkNames } from './runtimes/index.js';
import { Session, type Settings } from './session.js';
import { KINDS, type Kind, type Runtime, type Workload } from './types.js';
import { measureCpu, measureIo, measureIsolation } from './work.js';

export { RUNTIME_IDS } from './runtimes/index.js';
export { KINDS, type Kind } from './types.js';
export type { Report } from './report/types.js';

export interface BenchOptions extends Settings, KernelOptions {
  kinds: readonly Kind[];
  /** Names of RUNTIME_IDS. */
  runtimes: readonly string[];
  title: string;
  /** What repeats the run, for the report. */
  command: string[];
}

/**
 * Runs what is asked for, of the runtimes that are there; a runtime that fails is listed among the report's failures, and
 * the others go on. Whatever happens, nothing stays behind.
 * Errors: ERR_BENCH_OPTION, ERR_BENCH_MISSING, ERR_BENCH_PLACE; ERR_BENCH_NONE if no runtime is there; the signal's reason.
 */
export async function runBench(engine: Engine, options: BenchOptions): Promise<Report> {
  checkNames(options.runtimes);
  const place = await makePlace(engine, options);
  const session = new Session(place, options);
  const all = makeRuntimes(options.runtimes, place);
  const present: Runtime[] = [];
  const entries: RuntimeEntry[] = [];
  const began: Runtime[] = [];
  const [firstKind = 'boot'] = options.kinds;
  try {
    for (const runtime of all) {
      const { id, label, kind } = runtime;
      const entry = { id, label, kind: kind === 'vm' ? 'vm' : 'container' } as const;
      options.onProgress?.(`looking for ${label}`);
      options.signal?.throwIfAborted();
      let version: string;
      try {
        version = await runtime.detect();
      } catch (error) {
        entries.push({ ...entry, missing: messageOf(error) });
        continue;
      }
      entries.push({ ...entry, version });
      began.push(runtime);
      const prepared = await session.attempt(firstKind, runtime, async () => {
        await runtime.prepare(shapes(options));
        return true;
      });
      if (prepared) present.push(runtime);
    }
    if (began.length === 0) {
      const why = entries.map(({ id, missing }) => `${id}: ${missing}`).join('; ');
      throw new ClearVMError('ERR_BENCH_NONE', `no runtime can be measured here: ${why}`);
    }
    const report: Report = {
      format: 'clearvm-bench',
      version: REPORT_VERSION,
      title: options.title,
      created: new Date().toISOString(),
      command: options.command,
      host: describeHost(),
      settings: {
        runs: options.runs,
        workRuns: options.workRuns,
        warmup: options.warmup,
        memoryMiB: options.memoryMiB,
        count: options.count,
      },
      runtimes: entries,
      sizes: diskSizes(place),
      skipped: [],
      failures: session.failures,
    };
    await measure(report, session, present, options.kinds);
    return report;
  } finally {
    await session.close();
    for (const runtime of began) await runtime.close();
    await removePlace(place);
  }
}

/** Fills in what is asked for. */
async function measure(
  report: Report,
  session: Session,
  runtimes: readonly Runtime[],
  kinds: readonly Kind[],
): Promise<void> {
  // What runs in them is the same, however they were started.
  const forked = runtimes.some(({ id }) => id === 'clearvm');
  const distinct = runtimes.filter(({ id }) => !forked || !id.startsWith('clearvm-'));
  const withHost = [new HostRuntime(session.place), ...distinct];
  const skip = (what: Failure): void => void report.skipped.push(what);
  const wants = (kind: Kind): boolean => kinds.includes(kind);
  if (wants('boot')) report.boot = await measureBoot(session, runtimes);
  if (wants('memory')) report.memory = await measureMemory(session, runtimes);
  if (wants('density')) report.density = await measureDensity(session, runtimes);
  if (wants('io')) report.io = await measureIo(session, withHost, skip);
  if (wants('cpu')) report.cpu = await measureCpu(session, withHost, skip);
  if (wants('isolation')) report.isolation = await measureIsolation(session, distinct, skip);
}

/** Every shape of VM that will be started: templates are made of them before anything is measured. */
function shapes({ kinds, memoryMiB }: BenchOptions): Workload[] {
  const sizes = kinds.includes('memory') ? memorySizes(memoryMiB) : [memoryMiB];
  const plain = sizes.map((size) => ({ words: [], memoryMiB: size }));
  const needsVolume = kinds.some((kind) => kind === 'io' || kind === 'isolation');
  return needsVolume ? [...plain, { words: [], memoryMiB, volume: '/' }] : plain;
}

/** Kinds of a word of the command line: some of them with commas between, or `all`. Errors: ERR_BENCH_OPTION. */
export function kindsOf(word: string): Kind[] {
  const names = word === 'all' ? KINDS : word.split(',');
  const unknown = names.find((name) => !(KINDS as readonly string[]).includes(name));
  if (unknown === undefined) return KINDS.filter((kind) => names.includes(kind));
  throw new ClearVMError(
    'ERR_BENCH_OPTION',
    `${JSON.stringify(unknown)} is nothing to measure: choose of ${KINDS.join(', ')} and all`,
  );
}
