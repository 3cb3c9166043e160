/** Waiting until a container is ready for its work, by what it says, by its health check, or by a command. */
import { setTimeout as sleep } from 'node:timers/promises';

import { ClearVMError } from '../errors.js';
import type { Container } from './managed.js';
import { isActive } from './record.js';

/** What is waited for: one of these. */
export type Readiness =
  /** A line of its log that has this text in it, or matches; `times`: so many of them, 1 unless given. */
  | { log: string | RegExp; times?: number }
  /** Its health check. */
  | { healthy: true }
  /** A command in it that succeeds; it is tried again and again. */
  | { command: readonly string[] };

/** How long it is waited for. */
export interface WaitForOptions {
  /** Milliseconds, 60000 unless given. */
  timeout?: number;
  signal?: AbortSignal;
}

const TIMEOUT = 60_000;
/** Between two looks, ms. */
const LOOK_AGAIN = 100;

/**
 * Returns when it is so. Errors: ERR_READY_TIMEOUT; ERR_CONTAINER_NOT_RUNNING (it has ended, or was never started); ERR_NO_HEALTHCHECK,
 * ERR_UNHEALTHY; ERR_LOG_DRIVER; the signal's reason.
 */
export async function waitUntilReady(
  container: Container,
  readiness: Readiness,
  options: WaitForOptions = {},
): Promise<void> {
  const timeout = options.timeout ?? TIMEOUT;
  const timer = AbortSignal.timeout(timeout);
  const signal = options.signal ? AbortSignal.any([options.signal, timer]) : timer;
  const { what, wait } = strategy(container, readiness, signal);
  try {
    options.signal?.throwIfAborted();
    await wait();
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!timer.aborted) throw error;
    throw new ClearVMError(
      'ERR_READY_TIMEOUT',
      `container ${container.name} was not ready within ${timeout} ms: ${what}`,
      { cause: error },
    );
  }
}

function strategy(
  container: Container,
  readiness: Readiness,
  signal: AbortSignal,
): { what: string; wait: () => Promise<void> } {
  if ('log' in readiness) {
    const { log, times = 1 } = readiness;
    const found = (line: string): boolean =>
      typeof log === 'string'
        ? line.includes(log)
        : new RegExp(log, log.flags.replace(/[gy]/g, '')).test(line);
    return {
      what: `its log has no ${times > 1 ? `${times} lines with ` : ''}${String(log)}`,
      wait: () => waitForLine(container, found, times, signal),
    };
  }
  if ('healthy' in readiness) {
    return {
      what: 'its health check did not succeed',
      wait: () => waitForHealth(container, signal),
    };
  }
  const { command } = readiness;
  return {
    what: `${command.join(' ')} did not succeed`,
    wait: () => waitForCommand(container, command, signal),
  };
}

function requireRunning(container: Container): void {
  const { status, exitCode } = container.state;
  if (isActive(status)) return;
  const why = status === 'created' ? 'it was not started' : `it has ended with status ${exitCode}`;
  throw new ClearVMError(
    'ERR_CONTAINER_NOT_RUNNING',
    `container ${container.name} cannot become ready: ${why}`,
  );
}

async function waitForLine(
  container: Container,
  found: (line: string) => boolean,
  times: number,
  signal: AbortSignal,
): Promise<void> {
  let count = 0;
  // Lines of this run only.
  const since = container.state.startedAt;
  for await (const { log } of container.logs({ follow: true, since, signal })) {
    if (found(log) && ++count >= times) return;
  }
  signal.throwIfAborted();
  requireRunning(container);
}

async function waitForHealth(container: Container, signal: AbortSignal): Promise<void> {
  if (!container.record.health) {
    throw new ClearVMError('ERR_NO_HEALTHCHECK', `container ${container.name} has no health check`);
  }
  for (;;) {
    requireRunning(container);
    const status = container.state.health?.Status;
    if (status === 'healthy') return;
    if (status === 'unhealthy') {
      throw new ClearVMError('ERR_UNHEALTHY', `container ${container.name} is unhealthy`);
    }
    await sleep(LOOK_AGAIN, undefined, { signal });
  }
}

async function waitForCommand(
  container: Container,
  command: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    requireRunning(container);
    const process = await container.exec(command, { stdout: 'ignore', stderr: 'ignore', signal });
    if ((await process.wait()).exitCode === 0) return;
    await sleep(LOOK_AGAIN, undefined, { signal });
  }
}
