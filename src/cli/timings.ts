/** The table behind `run --timings`. */
import { TIMELINE_LABELS, type Timing } from '../vm/timings.js';

/**
 * A line for each point: milliseconds since the library was called, and since the point before.
 * `nodeMs`: how long this process had run by then, which an application that embeds the library does not pay.
 */
export function formatTimings(timings: readonly Timing[], nodeMs: number): string {
  let text = '      at ms    step ms  point\n';
  let before = -nodeMs;
  const line = (at: number, point: string, label: string): void => {
    const times = [at, at - before].map((time) => time.toFixed(3).padStart(11)).join('');
    text += `${times}  ${point.padEnd(15)}${label}\n`;
    before = at;
  };
  line(-nodeMs, 'node', 'the command line starts');
  for (const { point, at } of timings) line(at, point, TIMELINE_LABELS[point]);
  return text;
}
