import { describe, expect, test } from 'vitest';

import type { Container } from '../../../src/engine/managed.js';
import { waitUntilReady } from '../../../src/engine/wait-for.js';

/** A container that has printed these lines, and whose health is that, one after the other; its commands exit so. */
function container(parts: {
  lines?: string[];
  health?: string[];
  exits?: number[];
  status?: string;
}): Container {
  const { lines = [], health, exits = [], status = 'running' } = parts;
  const queue = [...(health ?? [])];
  return {
    name: 'web',
    record: { ...(health ? { health: {} } : {}) },
    get state() {
      const Status = queue.length > 1 ? queue.shift() : queue[0];
      return { status, exitCode: 3, startedAt: '', ...(Status ? { health: { Status } } : {}) };
    },
    async *logs({ signal }: { signal: AbortSignal }) {
      for (const log of lines) yield { log, stream: 'stdout', time: '' };
      if (status === 'running')
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
    },
    exec: () => Promise.resolve({ wait: () => Promise.resolve({ exitCode: exits.shift() ?? 1 }) }),
  } as unknown as Container;
}

describe('waitUntilReady', () => {
  test.each([
    ['a text', { lines: ['one\n', 'is ready now\n'] }, { log: 'ready' }],
    [
      'a pattern with a state of its own',
      { lines: ['ready\n', 'ready\n'] },
      { log: /ready/g, times: 2 },
    ],
    [
      'the health check',
      { health: ['starting', 'starting', 'healthy'] },
      { healthy: true as const },
    ],
    ['a command', { exits: [1, 1, 0] }, { command: ['true'] }],
  ])('returns by %s', async (_, parts, readiness) => {
    await expect(waitUntilReady(container(parts), readiness)).resolves.toBeUndefined();
  });

  test.each([
    ['ERR_READY_TIMEOUT', { lines: ['ready\n'] }, { log: 'ready', times: 2 }],
    ['ERR_READY_TIMEOUT', { exits: [] }, { command: ['false'] }],
    ['ERR_READY_TIMEOUT', { health: ['starting'] }, { healthy: true as const }],
    ['ERR_UNHEALTHY', { health: ['starting', 'unhealthy'] }, { healthy: true as const }],
    ['ERR_NO_HEALTHCHECK', {}, { healthy: true as const }],
    ['ERR_CONTAINER_NOT_RUNNING', { status: 'exited', lines: ['one\n'] }, { log: 'ready' }],
    ['ERR_CONTAINER_NOT_RUNNING', { status: 'created' }, { command: ['true'] }],
  ])('%s', async (code, parts, readiness) => {
    await expect(
      waitUntilReady(container(parts), readiness, { timeout: 300 }),
    ).rejects.toMatchObject({ code });
  });

  test('a signal ends it with its reason', async () => {
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(waitUntilReady(container({}), { log: 'x' }, { signal })).rejects.toThrow('enough');
  });
});
