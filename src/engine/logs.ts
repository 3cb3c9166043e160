/** Logs in docker's json-file format, as monitors write them (native/monitor/json_log.h). */
import { ClearVMError } from '../errors.js';
import { readLines, type LinePlace } from './line-files.js';

/** What a container has written at a time: a line, or a part of a long one. */
export interface LogEntry {
  /** A line, with its end; or part of one that is longer than 16 KiB or has no end. */
  log: string;
  stream: 'stdout' | 'stderr';
  /** RFC 3339 with nanoseconds. */
  time: string;
}

/** Which entries are read. */
export interface LogOptions {
  /** Wait for more until the container ends. */
  follow?: boolean;
  /** The last lines only. */
  tail?: number;
  /** RFC 3339; nothing before it. */
  since?: string;
  /** RFC 3339; nothing after it. */
  until?: string;
  signal?: AbortSignal;
}

export interface LogPlace extends LinePlace {
  /** Whether more may come. */
  isActive: () => boolean;
}

/** A line as an entry; undefined for what is none: the rest of a crash. */
function parseEntry(line: string): LogEntry | undefined {
  try {
    const entry = JSON.parse(line) as LogEntry;
    return typeof entry.log === 'string' && typeof entry.time === 'string' ? entry : undefined;
  } catch {
    return undefined;
  }
}

/**
 * A container's output as it was written down. Errors: ERR_LOG_DRIVER (there is no log).
 */
export async function* readLog(
  place: LogPlace,
  options: LogOptions = {},
): AsyncGenerator<LogEntry> {
  const since = options.since ?? '';
  const until = options.until ?? '9';
  const lines = readLines(place, {
    ...(options.tail === undefined ? {} : { tail: options.tail }),
    ...(options.follow ? { goesOn: place.isActive } : {}),
    enough: () => new Date().toISOString() > until,
    signal: options.signal,
  });
  for await (const some of lines) {
    // Text compares as time does: both have nanoseconds, in UTC.
    yield* some
      .flatMap((line) => parseEntry(line) ?? [])
      .filter(({ time }) => time >= since && time <= until);
  }
}

/** Errors: ERR_LOG_DRIVER. */
export function requireLog(driver: string): void {
  if (driver !== 'none') return;
  throw new ClearVMError(
    'ERR_LOG_DRIVER',
    'configured logging driver does not support reading: the container runs without a log',
  );
}
