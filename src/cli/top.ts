/** clearvm top */
import type { ContainerProcessInfo } from '../engine/running-commands.js';
import type { Command } from './command.js';
import { command as exec } from './exec.js';
import { OptionValues, usageError } from './options.js';

/** docker's: each column but the last has 20 characters, or 3 more than its widest cell. */
const COLUMN = 20;
const GAP = 3;

export const command: Command = {
  usage: 'top CONTAINER [ps OPTIONS]',
  summary: 'Show the processes in a running container; with options, by its own ps',
  options: {},
  operands: [1, Number.POSITIVE_INFINITY],
  failureStatus: 1,
  examples: [
    ['clearvm top web', 'user, process ids, times and command lines'],
    ['clearvm top web -o pid,args', 'what the ps in the image says'],
  ],
  // What is behind the container is ps's.
  parse: (argv) => {
    if (argv[0]?.startsWith('-') && argv[0] !== '--help') {
      throw usageError(`unknown option ${argv[0]}`, 'top');
    }
    const help = argv[0] === '--help';
    return { options: new OptionValues(new Map()), operands: help ? [] : [...argv], help };
  },

  async run({ operands, options }, context) {
    const [container = '', ...psOptions] = operands;
    if (psOptions.length > 0) {
      return exec.run({ options, operands: [container, 'ps', ...psOptions], help: false }, context);
    }
    const processes = await (await context.engine()).top(container);
    process.stdout.write(formatProcesses(processes, new Date()));
    return 0;
  },
};

/** As `ps -ef` has them, `now` being when they were listed. */
export function formatProcesses(processes: readonly ContainerProcessInfo[], now: Date): string {
  const rows = [['UID', 'PID', 'PPID', 'C', 'STIME', 'TTY', 'TIME', 'CMD']];
  for (const each of processes) {
    const busy = each.ageSeconds > 0 ? Math.floor((each.cpuSeconds / each.ageSeconds) * 100) : 0;
    rows.push([
      each.uid === 0 ? 'root' : String(each.uid),
      ...[String(each.pid), String(each.ppid), String(Math.min(busy, 99))],
      startTime(new Date(now.getTime() - each.ageSeconds * 1000), now),
      ...[each.tty || '?', duration(each.cpuSeconds), each.command],
    ]);
  }
  const widths = (rows[0] ?? []).map((_, i) =>
    Math.max(COLUMN, ...rows.map((row) => (row[i] ?? '').length + GAP)),
  );
  return rows
    .map((row) => row.map((cell, i) => (i === 7 ? cell : cell.padEnd(widths[i] ?? 0))).join(''))
    .map((line) => `${line}\n`)
    .join('');
}

/** "14:05", or "Nov21" on another day. */
function startTime(start: Date, now: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  if (start.toDateString() === now.toDateString()) {
    return `${two(start.getHours())}:${two(start.getMinutes())}`;
  }
  const [, month, day] = start.toDateString().split(' ');
  return `${month}${day}`;
}

function duration(seconds: number): string {
  const whole = Math.floor(seconds);
  return [whole / 3600, (whole / 60) % 60, whole % 60]
    .map((part) => String(Math.floor(part)).padStart(2, '0'))
    .join(':');
}
