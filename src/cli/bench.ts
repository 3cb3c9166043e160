/** clearvm bench */
import { writeFileSync } from 'node:fs';

import { RUNTIME_IDS, kindsOf, runBench, type BenchOptions, type Report } from '../bench/index.js';
import { htmlOf, svgOf } from '../bench/report/html.js';
import { readReport } from '../bench/report/read.js';
import { tablesOf } from '../bench/report/tables.js';
import { parseMemory } from '../engine/size.js';
import { ClearVMError } from '../errors.js';
import type { Command } from './command.js';
import { usageError, type OptionTable, type OptionValues } from './options.js';
import { formatTable } from './output.js';

const START_UPS = 20;
const WORK_RUNS = 5;
const WARMUP = 2;
const CONTAINERS = 100;
const TIMEOUT_SECONDS = 120;
const MIB = 2 ** 20;

const options: OptionTable = {
  runtimes: { type: 'string', value: 'A,B,C', describe: `Of ${RUNTIME_IDS.join(', ')} (all)` },
  runs: {
    type: 'string',
    value: 'N',
    describe: `Measurements of each figure (${START_UPS} start-ups, ${WORK_RUNS} of other work)`,
  },
  warmup: { type: 'string', value: 'N', describe: `Uncounted ones before (${WARMUP})` },
  memory: { type: 'string', short: 'm', value: 'SIZE', describe: 'Guest memory (128m)' },
  count: { type: 'string', value: 'N', describe: `Containers of density, at most (${CONTAINERS})` },
  timeout: {
    type: 'string',
    value: 'SECONDS',
    describe: `What no single workload may exceed (${TIMEOUT_SECONDS})`,
  },
  'qemu-kernel': {
    type: 'string',
    value: 'FILE',
    describe: "A distribution's kernel, for QEMU pc and Cloud Hypervisor (/boot/vmlinuz-*)",
  },
  'qemu-initrd': {
    type: 'string',
    value: 'FILE',
    describe: "A distribution's initrd, unpacked before QEMU pc's workload (none)",
  },
  'firecracker-kernel': {
    type: 'string',
    value: 'FILE',
    describe: 'A vmlinux with a serial console, for Firecracker',
  },
  title: { type: 'string', value: 'TEXT', describe: "The report's title" },
  json: { type: 'boolean', describe: 'The report as JSON, in place of tables' },
  html: { type: 'string', value: 'FILE', describe: 'Write the report as a page with plots' },
  svg: { type: 'string', value: 'FILE', describe: 'Write the plots as one picture' },
  quiet: { type: 'boolean', short: 'q', describe: 'Say nothing of progress' },
};

export const command: Command = {
  usage: 'bench [OPTIONS] boot|memory|density|io|cpu|isolation|all|report [FILE.json]',
  summary: 'Measure containers and VMs side by side, with every runtime that is installed',
  options,
  operands: [1, 2],
  failureStatus: 1,
  examples: [
    ['clearvm bench boot', 'start-up times'],
    ['clearvm bench boot,cpu --runs 50', 'several kinds, and more runs'],
    ['clearvm bench all --runtimes clearvm,runc,qemu-microvm --html report.html', 'a page'],
    ['clearvm bench density --count 500 --json', 'for programs'],
    ['clearvm bench report result.json --html report.html', 'a page of what --json has printed'],
  ],

  async run({ options: given, operands: [what = '', file] }, context) {
    if ((what === 'report') !== (file !== undefined)) {
      throw usageError(
        file === undefined
          ? 'which file? clearvm bench report FILE.json'
          : `${JSON.stringify(file)} is one too many`,
        'bench',
      );
    }
    const report =
      file === undefined ? await measure(what, given, await context.engine()) : readReport(file);
    // First of all, so that nothing that goes wrong with a picture loses what took so long.
    process.stdout.write(
      given.flag('json') ? `${JSON.stringify(report, null, 2)}\n` : formatReport(report),
    );
    const [html, svg] = [given.text('html'), given.text('svg')];
    if (html !== undefined) writeFileSync(html, await htmlOf(report));
    if (svg !== undefined) writeFileSync(svg, await svgOf(report));
    return report.failures.length > 0 ? 1 : 0;
  },
};

async function measure(
  what: string,
  given: OptionValues,
  engine: Parameters<typeof runBench>[0],
): Promise<Report> {
  const settings = benchOptions(what, given);
  const aborter = new AbortController();
  let status: number | undefined;
  const abort = (name: NodeJS.Signals, number: number): void => {
    status ??= 128 + number;
    aborter.abort(abortedBy(name, status));
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, abort);
  const clear = showProgress(settings, given.flag('quiet'));
  try {
    return await runBench(engine, { ...settings, signal: aborter.signal });
  } finally {
    clear();
    for (const signal of signals) process.off(signal, abort);
  }
}

function abortedBy(name: string, exitCode: number): Error {
  return new ClearVMError('ERR_BENCH_ABORTED', `${name}: everything has been removed`, {
    exitCode,
  });
}

/** One line that is written over, on a terminal only. Returns what removes it. */
function showProgress(settings: BenchOptions, quiet: boolean): () => void {
  const { stderr } = process;
  if (quiet || !stderr.isTTY) return () => {};
  settings.onProgress = (text) => stderr.write(`\r\x1b[K${text.slice(0, stderr.columns - 1)}`);
  return () => stderr.write('\r\x1b[K');
}

/** Errors: ERR_USAGE, ERR_BENCH_OPTION, ERR_MEMORY. */
export function benchOptions(what: string, given: OptionValues): BenchOptions {
  const number = (name: string, fallback: number, least: number, most: number): number => {
    const text = given.text(name);
    if (text === undefined) return fallback;
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= least && value <= most) return value;
    throw usageError(`--${name}: ${JSON.stringify(text)} is not ${least} to ${most}`, 'bench');
  };
  const kinds = kindsOf(what);
  return {
    kinds,
    runtimes: given.text('runtimes')?.split(',') ?? RUNTIME_IDS,
    runs: number('runs', START_UPS, 1, 100_000),
    workRuns: number('runs', WORK_RUNS, 1, 100_000),
    warmup: number('warmup', WARMUP, 0, 1000),
    count: number('count', CONTAINERS, 1, 100_000),
    timeoutMs: 1000 * number('timeout', TIMEOUT_SECONDS, 1, 86_400),
    memoryMiB: parseMemory(given.text('memory') ?? '128m') / MIB,
    title: given.text('title') ?? `clearvm bench ${what}`,
    command: ['clearvm', ...process.argv.slice(2)],
    qemuKernel: given.text('qemu-kernel'),
    qemuInitrd: given.text('qemu-initrd'),
    firecrackerKernel: given.text('firecracker-kernel'),
  };
}

/** Every table with its title. */
function formatReport(report: Report): string {
  const { host } = report;
  const head = `${host.cpu}, ${host.cpus} CPUs, ${host.memoryMiB} MiB, Linux ${host.kernel}, ${host.kvm}\n`;
  const tables = tablesOf(report).map((table) => {
    const note = table.note && `${table.note}\n`;
    return `\n${table.title}\n${note}${formatTable([table.head, ...table.rows])}`;
  });
  return head + tables.join('');
}
