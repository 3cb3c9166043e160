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
 * Errors: ERR_MEMORY (no size, or out of range; the message names `option` and the limit).
 */
export function parseMemory(value: string | number, option = 'memory', most = MAX_MEMORY): number {
  const bytes = typeof value === 'number' ? value : parseSize(value);
  const fail = (why: string): never => {
    throw new ClearVMError('ERR_MEMORY', `${option}: ${why}`, { field: option });
  };
  if (bytes === undefined || !Number.isFinite(bytes)) {
    return fail(`invalid size: '${value}'; write a number with k, m or g, as in 512m`);
  }
  if (bytes < MIN_MEMORY) {
    fail(
      `${value} is too little: a VM needs at least ${formatSize(MIN_MEMORY)} for its kernel and the command`,
    );
  }
  if (bytes > MAX_MEMORY) {
    fail(`${value} is too much: a VM can have at most ${formatSize(MAX_MEMORY)}`);
  }
  if (bytes > most) fail(`${value} is more than the VM's memory, ${formatSize(most)}`);
  return Math.ceil(bytes / MIB) * MIB;
}

/** Of `memory`, in bytes; undefined where none is given, or 0. Errors: ERR_MEMORY. */
export function parseMemoryReservation(
  value: string | number | undefined,
  memory: number,
): number | undefined {
  if (value === undefined || parseSize(String(value)) === 0) return undefined;
  return parseMemory(value, 'memoryReservation', memory);
}

/** Whether memory of so many bytes can be huge pages. Errors: ERR_MEMORY. */
export function checkHugePages(memory: number, reservation?: string | number): void {
  const fail = (why: string): never => {
    throw new ClearVMError('ERR_MEMORY', `hugepages: ${why}`, { field: 'hugepages' });
  };
  if (memory % (2 * MIB) !== 0) {
    fail(`memory of ${formatSize(memory)} is no whole number of pages of 2 MiB`);
  }
  if (reservation !== undefined) {
    fail('its pages are all set aside when it starts: there is no memoryReservation beside it');
  }
}

/** The processors of a VM, as a VmConfig has them. */
export interface Processors {
  /** Whole ones, that the guest sees. */
  cpus: number;
  /** Thousandths of a processor that they use together at most; absent: no limit. */
  cpuLimit?: number;
}

/** A number of processors, with a fraction or not. Errors: ERR_CPUS (no number, or out of range; the message says which). */
export function parseCpus(value: string | number): Processors {
  const text = String(value).trim();
  const count = /^(\d+(\.\d*)?|\.\d+)$/.test(text) ? Number(text) : Number.NaN;
  const fail = (why: string): never => {
    throw new ClearVMError('ERR_CPUS', `cpus: ${text || '""'} ${why}`, { field: 'cpus' });
  };
  if (Number.isNaN(count)) fail(`is no number; write 1 to ${MAX_CPUS}, or a fraction, as 0.5`);
  if (count < 0.01 || count > MAX_CPUS) {
    fail(`is out of range: a VM can have 0.01 to ${MAX_CPUS} processors`);
  }
  const cpus = Math.ceil(count);
  return count === cpus ? { cpus } : { cpus, cpuLimit: Math.round(count * 1000) };
}
