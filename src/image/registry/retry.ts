import pRetry from 'p-retry';

import { ImageError } from '../errors.js';
import { isTransient, RegistryError } from './errors.js';

export interface RetryOptions {
  /** How often something is tried again, in a row, without getting any further; 5 unless given. */
  retries?: number | undefined;
  /** The first pause, ms, which doubles from time to time; 250 unless given. */
  pause?: number | undefined;
  signal?: AbortSignal | undefined;
}

const RETRIES = 5;
const PAUSE = 250;
const LONGEST_PAUSE = 8000;

/**
 * Calls `attempt` until it succeeds, or fails for good.
 *
 * @param advanced whether the attempt that failed got further than those before: it does not count then
 */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  { retries = RETRIES, pause = PAUSE, signal }: RetryOptions,
  advanced: () => boolean = () => false,
): Promise<T> {
  try {
    return await pRetry(attempt, {
      retries,
      minTimeout: pause,
      maxTimeout: LONGEST_PAUSE,
      randomize: true,
      ...(signal ? { signal } : {}),
      shouldRetry: ({ error }) => isTransient(error),
      shouldConsumeRetry: () => !advanced(),
      async onFailedAttempt({ error, retriesLeft }) {
        if (!(error instanceof RegistryError) || error.retryAfter === undefined) return;
        if (retriesLeft > 0) await sleep(error.retryAfter, signal);
      },
    });
  } catch (error) {
    if (error instanceof ImageError || !signal?.aborted) throw error;
    throw new ImageError('ERR_IMAGE_ABORTED', 'the transfer was aborted', { cause: error });
  }
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener('abort', end, { once: true });
  });
}
