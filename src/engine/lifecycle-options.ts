/** Options about a container's life as docker writes them. */
import { ClearVMError } from '../errors.js';
import type { LogConfig, RestartPolicy } from './record.js';
import { signalNumber } from './signals.js';
import { parseSize } from './size.js';
import type { RunOptions } from './options.js';

const POLICIES = ['no', 'on-failure', 'always', 'unless-stopped'] as const;

/** `no`, `on-failure[:N]`, `always`, `unless-stopped`. Errors: ERR_RESTART. */
export function parseRestartPolicy(text: string | undefined, autoRemove: boolean): RestartPolicy {
  const fail = (why: string): never => {
    throw new ClearVMError('ERR_RESTART', `restart: ${why}`, { field: 'restart' });
  };
  const [, kind, count] = /^([a-z-]*)(?::(\d+))?$/.exec(text ?? 'no') ?? [];
  const name = kind === '' ? 'no' : POLICIES.find((policy) => policy === kind);
  if (name === undefined) {
    return fail(`${JSON.stringify(text)} is none of ${POLICIES.join(', ')}`);
  }
  if (count !== undefined && name !== 'on-failure') {
    fail('maximum retry count cannot be used with restart policy ' + name);
  }
  if (autoRemove && name !== 'no') fail('Conflicting options: --restart and --rm');
  return { name, maximumRetryCount: Math.min(Number(count ?? 0), 0xffff_ffff) };
}

/** Errors: ERR_LOG_OPTIONS. */
export function parseLogConfig(
  driver = 'json-file',
  options: Readonly<Record<string, string>> = {},
): LogConfig {
  const fail = (why: string): never => {
    throw new ClearVMError('ERR_LOG_OPTIONS', `log options: ${why}`, { field: 'logOptions' });
  };
  if (driver !== 'json-file' && driver !== 'none') {
    return fail(
      `there is no logging driver ${JSON.stringify(driver)}; there are json-file and none`,
    );
  }
  const config: LogConfig = { driver, maxSize: 0, maxFile: 1 };
  for (const [name, value] of Object.entries(options)) {
    if (name === 'max-size') {
      config.maxSize =
        value === '-1' ? 0 : (parseSize(value) ?? fail(`invalid size: '${value}' (max-size)`));
    } else if (name === 'max-file') {
      config.maxFile = /^[1-9]\d{0,4}$/.test(value)
        ? Number(value)
        : fail(`max-file=${value} is no number from 1 to 99999`);
    } else {
      fail(`unknown log opt '${name}' for ${driver} log driver; there are max-size and max-file`);
    }
  }
  return config;
}

/** Checks signal and timeout. Errors: ERR_SIGNAL. */
export function parseStopTimeout(options: RunOptions): { stopTimeout?: number } {
  if (options.stopSignal !== undefined) signalNumber(options.stopSignal);
  return options.stopTimeout === undefined ? {} : { stopTimeout: options.stopTimeout };
}
