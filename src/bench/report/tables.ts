/** Every figure of a report, as tables for people: the terminal's and the page's. */
import { TIMELINE_LABELS } from '../../vm/timings.js';
import type { Summary } from '../types.js';
import type { Report } from './types.js';

export interface Table {
  id: string;
  title: string;
  note: string;
  head: string[];
  /** Texts first, figures behind them. */
  rows: string[][];
  /** How many columns hold texts. */
  texts: number;
}

const MIB = 2 ** 20;
const SUMMARY = ['median', 'p99', 'min', 'max'];

function summary({ median, p99, min, max }: Summary): string[] {
  return [median, p99, min, max].map(figure);
}

/** As it stands in the JSON. */
function figure(value: number): string {
  return String(value);
}

/** Tables of what was measured, in the order of the kinds. */
export function tablesOf(report: Report): Table[] {
  const label = (id: string): string =>
    report.runtimes.find((runtime) => runtime.id === id)?.label ?? id;
  const labels: Readonly<Record<string, string>> = TIMELINE_LABELS;
  const { boot, memory, density, io, cpu, isolation } = report;
  const tables: (Table | undefined)[] = [
    boot && {
      id: 'boot',
      title: 'Start-up, ms',
      note: "From the request to the first line that the workload prints, read by the same process for all: a call of the library for clearvm, the fork of the runtime's command for the others.",
      head: ['runtime', ...SUMMARY, 'runs'],
      texts: 1,
      rows: boot.map(({ runtime, total }) => [
        label(runtime),
        ...summary(total),
        figure(total.runs),
      ]),
    },
    boot && {
      id: 'timeline',
      title: 'Start-up by steps, ms',
      note: 'Each from the point before, as clearvm run --timings names them; of the others only the ends are known.',
      head: ['runtime', 'point', 'meaning', ...SUMMARY],
      texts: 3,
      rows: boot.flatMap(({ runtime, intervals }) =>
        intervals.map(({ point, ms }) => [
          label(runtime),
          point,
          labels[point] ?? '',
          ...summary(ms),
        ]),
      ),
    },
    memory && {
      id: 'memory',
      title: 'Memory of idle containers, MiB',
      note: 'Proportional set size of all processes of the containers; a daemon that others share and the library in this process are not in it, nor what the host kernel itself holds.',
      head: ['runtime', 'VM size', 'containers', 'together', 'each'],
      texts: 1,
      rows: memory.map((result) => [
        label(result.runtime),
        ...[result.vmMiB, result.containers, result.pssMiB, result.pssEachMiB].map(figure),
      ]),
    },
    report.sizes.length > 0
      ? {
          id: 'sizes',
          title: 'On the disk, MiB',
          note: 'What lies there before anything is started.',
          head: ['what', 'MiB'],
          texts: 1,
          rows: report.sizes.map(({ name, bytes }) => [name, (bytes / MIB).toFixed(2)]),
        }
      : undefined,
    density && {
      id: 'density',
      title: 'Density: idle containers on one host',
      note: `At most ${report.settings.count}, of ${report.settings.memoryMiB} MiB each; none is started when a tenth of the free memory is left. Start-up is that of the last one, in ms; memory in MiB.`,
      head: ['runtime', 'ended by', 'containers', 'start-up', 'Pss together', 'available'],
      texts: 2,
      rows: density.flatMap(({ runtime, points, stoppedBy }) =>
        points.map((point) => [
          label(runtime),
          stoppedBy,
          ...[point.containers, point.startMs, point.pssMiB, point.availableMiB].map(figure),
        ]),
      ),
    },
    io && {
      id: 'io',
      title: 'Files, ms',
      note: 'One file written with fsync and read again, then small files made and walked over: in the root, and in a directory of the host. By the clock inside.',
      head: ['runtime', 'where', 'what', 'bytes or files', ...SUMMARY],
      texts: 3,
      rows: io.map((result) => [
        ...[label(result.runtime), result.where, result.figure],
        ...[figure(result.amount), ...summary(result.ms)],
      ]),
    },
    cpu && {
      id: 'cpu',
      title: 'A loop, ms',
      note: 'A fixed number of rounds, by the clock inside; the slowdown is against the same loop on the host.',
      head: ['runtime', ...SUMMARY, 'slowdown'],
      texts: 1,
      rows: cpu.map(({ runtime, ms, slowdown }) => [
        label(runtime),
        ...summary(ms),
        figure(slowdown),
      ]),
    },
    isolation && {
      id: 'isolation',
      title: 'Beside a neighbour, ms',
      note: 'The same work of a victim alone and beside a neighbour of the same runtime; the slowdown is against the victim alone. Packet floods are missing: containers have no network yet.',
      head: ['runtime', 'victim', 'neighbour', ...SUMMARY, 'slowdown'],
      texts: 3,
      rows: isolation.map(({ runtime, victim, neighbour, ms, slowdown }) => [
        ...[label(runtime), victim, neighbour],
        ...[...summary(ms), figure(slowdown)],
      ]),
    },
    {
      id: 'runtimes',
      title: 'Runtimes',
      note: 'What was looked for on this host.',
      head: ['runtime', 'kind', 'version, or why it was not measured'],
      texts: 3,
      rows: report.runtimes.map(({ label: name, kind, version, missing }) => [
        name,
        kind,
        version ?? `not measured: ${missing}`,
      ]),
    },
    problems('skipped', 'Cannot be measured', report.skipped, label),
    problems('failures', 'Failed', report.failures, label),
  ];
  return tables.filter((table): table is Table => table !== undefined);
}

function problems(
  id: string,
  title: string,
  list: Report['failures'],
  label: (id: string) => string,
): Table | undefined {
  if (list.length === 0) return undefined;
  const rows = list.map(({ kind, runtime, message }) => [kind, label(runtime), message]);
  return { id, title, note: '', head: ['kind', 'runtime', 'why'], texts: 3, rows };
}
