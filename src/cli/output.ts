/** How commands talk to people. */
import { ClearVMError, messageOf } from '../errors.js';

/** Rows as columns, the first row being the heading; no blanks at the ends of lines. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, index) => {
      widths[index] = Math.max(widths[index] ?? 0, cell.length);
    });
  }
  return rows
    .map(
      (row) =>
        row
          .map((cell, i) => cell.padEnd(widths[i] ?? 0))
          .join('   ')
          .trimEnd() + '\n',
    )
    .join('');
}

/** "124MB": three digits and a decimal unit, as docker writes sizes. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  const text = unit === 0 ? String(value) : Number(value.toPrecision(3)).toString();
  return `${text}${units[unit]}`;
}

const AGES: readonly (readonly [number, string])[] = [
  [365 * 86400, 'year'],
  [30 * 86400, 'month'],
  [7 * 86400, 'week'],
  [86400, 'day'],
  [3600, 'hour'],
  [60, 'minute'],
  [1, 'second'],
];

/** "3 weeks ago" of an RFC 3339 time; "N/A" where there is none. */
export function formatAge(created: string | undefined, now: number): string {
  const seconds = created === undefined ? Number.NaN : (now - Date.parse(created)) / 1000;
  if (Number.isNaN(seconds)) return 'N/A';
  for (const [size, name] of AGES) {
    const count = Math.floor(seconds / size);
    // docker stays with the smaller unit until there are two of the larger one.
    if (count >= 2 || (count === 1 && size <= 3600)) {
      return `${count} ${name}${count === 1 ? '' : 's'} ago`;
    }
  }
  return 'Less than a second ago';
}

/** Lines of the kernel log that go with an error; --debug shows all of it. */
const LOG_LINES = 25;

/** One line for an error, and the kernel log behind it where there is one. */
export function formatError(error: unknown): string {
  const text = `clearvm: ${messageOf(error)
    .replace(/\s*\n\s*/g, ' ')
    .trim()}\n`;
  if (!(error instanceof ClearVMError) || error.kernelLog === undefined) return text;
  const last = error.kernelLog.split('\n').slice(-LOG_LINES);
  const lines = last.map((line) => `  ${printable(line)}\n`);
  return `${text}The last lines of the guest's kernel log:\n${lines.join('')}`;
}

/** Text that came from a guest, without what a terminal would take for commands. */
function printable(text: string): string {
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '');
}
