// What the measurements in test/perf have in common.

/** A container that does nothing. */
export const IDLE = { cmd: ['/bin/busybox', 'sleep', '1000'], memory: '128m', cpus: 1 };

/** Prints a figure for scripts/perf.mjs. */
export function emit(name, value, unit, more = {}) {
  process.stdout.write(`${JSON.stringify({ name, value, unit, ...more })}\n`);
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

export const round = (value) => Math.round(value * 1000) / 1000;
