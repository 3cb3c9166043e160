/** Sizes and CPU counts as people write them. */
import { ClearVMError } from '../errors.js';
import { MAX_CPUS, MAX_MEMORY, MIN_MEMORY } from '../vm/config.js';

const MIB = 1024 * 1024;
const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1024,
  m: MIB,
  g: 1024 ** 3,
  t: 1024 ** 4,
  p: 1024 ** 5,
};

/**
 * Bytes of a size in docker's syntax: a number, possibly with a fraction, and k, m, g, t or p (of 1024), possibly
 * followed by `b` or `ib`; without a unit bytes are meant. Undefined where the text is none.
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?$/i.exec(text.trim());
  if (!match) return undefined;
  return Math.floor(Number(match[1]) * (UNITS[(match[2] ?? '').toLowerCase()] ?? 1));
}

/** "512m" of a number of bytes: the largest unit that divides it. */
export function formatSize(bytes: number): string {
  for (const unit of ['g', 'm', 'k']) {
    const size = UNITS[unit] as number;
    if (bytes >= size && bytes % size === 0) return `${bytes / size}${unit}`;
  }
  return String(bytes);
}

/**
 * Guest memory in bytes, rounded up to whole MiB.
 * Errors: ERR_MEMORY (no size, or out of range; the message names the limit).
 */
export function parseMemory(value: string | number): number {
  const bytes = typeof value === 'number' ? value : parseSize(value);
  if (bytes === undefined || !Number.isFinite(bytes)) {
    throw new ClearVMError(
      'ERR_MEMORY',
      `memory: ${JSON.stringify(value)} is no size; write a number with k, m or g, as in 512m`,
      { field: 'memory' },
    );
  }
  if (bytes < MIN_MEMORY) {
    throw new ClearVMError(
      'ERR_MEMORY',
      `memory: ${value} is too little: a VM needs at least ${formatSize(MIN_MEMORY)} for its kernel and the command`,
      { field: 'memory' },
    );
  }
  if (bytes > MAX_MEMORY) {
    throw new ClearVMError(
      'ERR_MEMORY',
      `memory: ${value} is too much: a VM can have at most ${formatSize(MAX_MEMORY)}`,
      { field: 'memory' },
    );
  }
  return Math.ceil(bytes / MIB) * MIB;
}

/** Errors: ERR_CPUS (no whole number, or out of range; the message says which). */
export function parseCpus(value: string | number): number {
  const text = String(value).trim();
  const count = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  const fail = (why: string): never => {
    throw new ClearVMError('ERR_CPUS', `cpus: ${text || '""'} ${why}`, { field: 'cpus' });
  };
  if (Number.isNaN(count)) fail(`is no number; write 1 to ${MAX_CPUS}`);
  if (!Number.isInteger(count)) {
    fail(
      `is a fraction: a VM has whole processors, 1 to ${MAX_CPUS}; shares of one need CPU limits on the VMM, which are not there yet`,
    );
  }
  if (count < 1 || count > MAX_CPUS) fail(`is out of range: a VM can have 1 to ${MAX_CPUS}`);
  return count;
}
