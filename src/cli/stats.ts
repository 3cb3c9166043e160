/** clearvm stats */
import { cpuPercent, type ContainerSample } from '../engine/running-commands.js';
import type { Engine } from '../engine/engine.js';
import { ClearVMError } from '../errors.js';
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { formatRows, type Fields } from './template.js';

const options: OptionTable = {
  'no-stream': { type: 'boolean', describe: 'Show it once' },
  'no-trunc': { type: 'boolean', describe: 'Whole ids' },
  all: { type: 'boolean', short: 'a', describe: 'Those that do not run, too' },
  format: {
    type: 'string',
    value: 'json|table|TEMPLATE',
    describe: "json, or docker's: '{{.Name}}: {{.CPUPerc}}'",
  },
};

const INTERVAL = 1000;
const CLEAR_SCREEN = '\x1b[2J\x1b[H';
const HEADINGS: Fields = {
  ID: 'CONTAINER ID',
  Container: 'CONTAINER',
  Name: 'NAME',
  CPUPerc: 'CPU %',
  MemUsage: 'MEM USAGE / LIMIT',
  MemPerc: 'MEM %',
  NetIO: 'NET I/O',
  BlockIO: 'BLOCK I/O',
  PIDs: 'PIDS',
};
const COLUMNS = ['ID', 'Name', 'CPUPerc', 'MemUsage', 'MemPerc', 'NetIO', 'BlockIO', 'PIDs'];
/** Containers that are gone, or cannot answer, while the others are shown. */
const SILENT = new Set([
  ...['ERR_CONTAINER_NOT_FOUND', 'ERR_CONTAINER_NOT_RUNNING', 'ERR_CONTAINER_PAUSED'],
]);

export const command: Command = {
  usage: 'stats [OPTIONS] [CONTAINER...]',
  summary: 'Show what running containers use',
  options,
  operands: [0, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [['clearvm stats --no-stream', 'once, for all of them']],

  async run({ options: given, operands }, context) {
    const engine = await context.engine();
    const named = await Promise.all(operands.map((reference) => engine.identify(reference)));
    const all = given.flag('all');
    const wanted = async () =>
      operands.length > 0 ? named : all ? engine.containers({ all }) : engine.running();
    const format = given.text('format') ?? 'table';
    if (format !== 'json') renderRows([], format); // what is wrong is told at once
    const trim = (id: string): string => (given.flag('no-trunc') ? id : id.slice(0, 12));
    let before = await sampleAll(engine, await wanted());
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, INTERVAL));
      const containers = await wanted();
      const now = await sampleAll(engine, containers);
      const rows = containers.map(({ id, name }, index): Fields => {
        const [CPUPerc, MemUsage, MemPerc, NetIO, BlockIO, PIDs] = usageCells(
          before.get(id),
          now.get(id),
        );
        const ID = trim(id);
        // As it was asked for, where it was.
        const Container = operands[index] ?? ID;
        return { Container, ID, Name: name, CPUPerc, MemUsage, MemPerc, NetIO, BlockIO, PIDs };
      });
      const once = given.flag('no-stream');
      const clear = once || !format.startsWith('table') ? '' : CLEAR_SCREEN;
      process.stdout.write(clear + renderRows(rows, format));
      if (once) return 0;
      before = now;
    }
  },
};

function renderRows(rows: readonly Fields[], format: string): string {
  return formatRows(rows, format, { columns: COLUMNS, headings: HEADINGS, command: 'stats' });
}

async function sampleAll(
  engine: Engine,
  containers: readonly { id: string }[],
): Promise<Map<string, ContainerSample>> {
  const samples = new Map<string, ContainerSample>();
  await Promise.all(
    containers.map(async ({ id }) => {
      try {
        samples.set(id, await engine.sample(id));
      } catch (error) {
        if (!(error instanceof ClearVMError) || !SILENT.has(error.code)) throw error;
      }
    }),
  );
  return samples;
}

/** The columns behind the name; dashes, as docker's, for a container that does not tell. */
export function usageCells(
  before: ContainerSample | undefined,
  now: ContainerSample | undefined,
): string[] {
  if (!now) return ['--', '-- / --', '--', '--', '--', '--'];
  return [
    `${cpuPercent(before ?? now, now).toFixed(2)}%`,
    `${formatBinary(now.memory)} / ${formatBinary(now.memoryLimit)}`,
    `${((now.memory / now.memoryLimit) * 100).toFixed(2)}%`,
    // There is no network yet, and what files cost is the host's (docs/limitations.md).
    ...['0B / 0B', '0B / 0B'],
    String(now.tasks),
  ];
}

/** "1.5MiB": four digits, as docker has them. */
function formatBinary(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number(value.toPrecision(4))}${units[unit]}`;
}
