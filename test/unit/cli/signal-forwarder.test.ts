import type { EventEmitter } from 'node:events';

import { expect, test, vi } from 'vitest';

import { SignalForwarder } from '../../../src/cli/signal-forwarder.js';

/** As Node does when it has got one. */
function send(name: string, number: number): void {
  (process as EventEmitter).emit(name, name, number);
}

test('a signal that comes before the command ends the run, once', () => {
  const signals = new SignalForwarder();
  try {
    const heard = vi.fn();
    const removed = vi.fn();
    signals.aborted.addEventListener('abort', heard, { once: true });
    signals.aborted.addEventListener('abort', removed);
    signals.aborted.removeEventListener('abort', removed);
    expect(signals.aborted.aborted).toBe(false);
    expect(() => signals.aborted.throwIfAborted()).not.toThrow();
    send('SIGUSR1', 10);
    send('SIGTERM', 15);
    expect(heard).toHaveBeenCalledTimes(1);
    expect(removed).not.toHaveBeenCalled();
    expect(signals.aborted.aborted).toBe(true);
    expect(() => signals.aborted.throwIfAborted()).toThrow(/SIGUSR1 came before the command ran/);
    expect(signals.aborted.reason).toBeInstanceOf(Error);
    expect(signals.exitCode).toBe(138);
  } finally {
    signals.close();
  }
});

test('one that comes later goes to the command', () => {
  const signals = new SignalForwarder();
  try {
    const kill = vi.fn(() => Promise.resolve());
    signals.forwardTo({ kill });
    send('SIGUSR2', 12);
    expect(kill).toHaveBeenCalledWith('SIGUSR2');
    expect(signals.aborted.aborted).toBe(false);
  } finally {
    signals.close();
  }
  expect(process.listenerCount('SIGUSR2')).toBe(0);
});
