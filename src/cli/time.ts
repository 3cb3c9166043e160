/** Times as docker's --since and --until take them. */
import { usageError } from './options.js';

const UNITS: Readonly<Record<string, number>> = {
  h: 3_600_000,
  m: 60_000,
  s: 1000,
  ms: 1,
};

/**
 * RFC 3339 with nanoseconds, in UTC, of: such a time, with or without its parts from the right; seconds since 1970, with a
 * fraction or not; or an age, such as 1h30m. Errors: ERR_USAGE.
 */
export function parseTime(text: string, option: string, command: string, now = Date.now()): string {
  let ms = Number.NaN;
  let nanoseconds = '';
  const seconds = /^(\d+)(?:\.(\d{1,9}))?$/.exec(text);
  if (seconds) {
    ms = Number(seconds[1]) * 1000;
    nanoseconds = seconds[2] ?? '';
  } else if (/^-?(?:\d+(?:\.\d+)?(?:ms|[hms]))+$/.test(text)) {
    ms = now;
    for (const [, count, unit = ''] of text.matchAll(/(\d+(?:\.\d+)?)(ms|[hms])/g)) {
      ms -= Number(count) * (UNITS[unit] ?? 0);
    }
    nanoseconds = String(Math.floor(ms % 1000)).padStart(3, '0');
    ms = Math.floor(ms / 1000) * 1000;
  } else if (/^\d{4}-\d{2}-\d{2}/.test(text)) {
    const [, head = '', fraction = '', zone = ''] =
      /^(.*?)(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})?$/.exec(text) ?? [];
    // "2026-01-31T12" is no time to Date.
    const whole = /T\d{2}$/.test(head)
      ? `${head}:00`
      : head.includes('T')
        ? head
        : `${head}T00:00:00`;
    ms = Date.parse(whole + zone);
    nanoseconds = fraction;
  }
  if (Number.isNaN(ms)) {
    throw usageError(
      `--${option} is a time such as 2026-01-31T12:00:00Z, or an age such as 10m, not ${JSON.stringify(text)}`,
      command,
    );
  }
  return `${new Date(ms).toISOString().slice(0, 19)}.${nanoseconds.padEnd(9, '0')}Z`;
}
