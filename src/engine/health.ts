/** Health checks: an image's HEALTHCHECK and the options that go over it, and what the monitor is told of it. */
import { ClearVMError } from '../errors.js';
import type { ImageRunConfig } from '../image/index.js';
import { encodeExec, type OciSpec } from '../vm/spec.js';
import { HEALTH_MAX_MS } from './monitor-protocol.js';
import type { RunOptions } from './options.js';
import type { HealthConfig } from './record.js';

/** docker's, milliseconds. */
const DEFAULTS = {
  interval: 30_000,
  timeout: 30_000,
  startPeriod: 0,
  startInterval: 5_000,
  retries: 3,
};
/** docker takes nothing shorter. */
const SHORTEST = 1;

const UNITS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Milliseconds of a Go duration (`1m30s`) or of a number of them; undefined for what is none. */
export function parseDuration(given: string | number): number | undefined {
  if (typeof given === 'number') return Number.isFinite(given) && given >= 0 ? given : undefined;
  if (given === '0') return 0;
  if (!/^(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$/.test(given)) return undefined;
  let sum = 0;
  for (const [, number, unit = ''] of given.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)) {
    sum += Number(number) * (UNITS[unit] ?? 0);
  }
  return sum;
}

/** Undefined where there is none. Errors: ERR_HEALTHCHECK. */
export function mergeHealth(
  image: Pick<ImageRunConfig, 'Healthcheck' | 'Shell'>,
  options: RunOptions['healthcheck'],
): HealthConfig | undefined {
  if (options === false) return undefined;
  const given = options ?? {};
  const theirs = image.Healthcheck ?? {};
  const { cmd } = given;
  const test =
    cmd === undefined
      ? theirs.Test
      : typeof cmd === 'string'
        ? ['CMD-SHELL', cmd]
        : ['CMD', ...cmd];
  const fail = (field: string, why: string): never => {
    throw new ClearVMError('ERR_HEALTHCHECK', `healthcheck: ${why}`, {
      field: `healthcheck/${field}`,
    });
  };
  const time = (
    name: 'interval' | 'timeout' | 'startPeriod' | 'startInterval',
    nanoseconds = 0,
  ): number => {
    const text = given[name];
    const own =
      text === undefined
        ? undefined
        : (parseDuration(text) ??
          fail(name, `${name} ${JSON.stringify(text)} is no duration such as 30s or 1m30s`));
    // 0 stands for what docker does by itself.
    const ms = own || nanoseconds / 1e6 || DEFAULTS[name];
    if (ms > HEALTH_MAX_MS) fail(name, `${name} is longer than 100 years`);
    if (ms !== 0 && ms < SHORTEST) fail(name, `${name} cannot be less than 1ms`);
    return Math.round(ms);
  };
  const config: Omit<HealthConfig, 'test'> = {
    interval: time('interval', theirs.Interval),
    timeout: time('timeout', theirs.Timeout),
    startPeriod: time('startPeriod', theirs.StartPeriod),
    startInterval: time('startInterval'),
    retries: given.retries || theirs.Retries || DEFAULTS.retries,
  };
  const [kind, ...words] = test ?? [];
  if (kind === undefined || kind === 'NONE') return undefined;
  if (kind !== 'CMD' && kind !== 'CMD-SHELL') {
    return fail(
      'cmd',
      `the image's check is of the kind ${JSON.stringify(kind)}; there are CMD and CMD-SHELL`,
    );
  }
  if (words.length === 0) fail('cmd', 'the check has no command');
  // What a shell is, the image says.
  if (kind === 'CMD-SHELL' && image.Shell?.length) {
    return { ...config, test: ['CMD', ...image.Shell, ...words] };
  }
  return { ...config, test: [kind, ...words] };
}

/** The HEALTH value of the start request. Errors: ERR_SPEC_TOO_LARGE. */
export function encodeHealth(health: HealthConfig, { process, annotations }: OciSpec): Buffer {
  const [kind, ...words] = health.test;
  const args = kind === 'CMD-SHELL' ? ['/bin/sh', '-c', ...words] : words;
  const { consoleSize: _, ...rest } = process;
  const exec = {
    process: { ...rest, args, terminal: false },
    ...(annotations ? { annotations } : {}),
  };
  const head = Buffer.alloc(36);
  const times = [health.interval, health.timeout, health.startPeriod, health.startInterval];
  times.forEach((ms, index) => head.writeBigUInt64LE(BigInt(ms), 8 * index));
  head.writeUInt32LE(health.retries, 32);
  return Buffer.concat([head, encodeExec(exec, false)]);
}
