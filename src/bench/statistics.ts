/** What is said of many measurements. */
import type { Summary } from './types.js';

/** Three decimals: microseconds of milliseconds, and no false precision in reports. */
export function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

/** The value below which a share of all lies (nearest rank; the mean of the two in the middle for an even median). */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) throw new RangeError('nothing was measured');
  const sorted = [...values].sort((a, b) => a - b);
  const at = (index: number): number => sorted[index] as number;
  if (share === 0.5 && sorted.length % 2 === 0) {
    return (at(sorted.length / 2 - 1) + at(sorted.length / 2)) / 2;
  }
  return at(Math.max(0, Math.ceil(share * sorted.length) - 1));
}

/** Errors: RangeError where there is no value. */
export function summarize(values: readonly number[]): Summary {
  return {
    runs: values.length,
    median: round(quantile(values, 0.5)),
    p99: round(quantile(values, 0.99)),
    min: round(quantile(values, 0)),
    max: round(quantile(values, 1)),
  };
}
