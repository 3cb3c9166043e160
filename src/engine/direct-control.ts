/** Signals for containers that belong to another process: they have no monitor to ask. */
import { setTimeout as sleep } from 'node:timers/promises';

import { ControlFrame } from '../vm/protocol.js';
import { uint32 } from '../vm/spec.js';
import { processStartTime } from './host.js';
import { statusFile } from './record.js';
import { connectRunning, type Running } from './running.js';

/** How often it is looked whether a VMM has gone, ms. */
const LOOK_AGAIN = 50;
/** How long a guest has to act on SIGKILL before its VM is ended, seconds. */
const KILL_PATIENCE = 2;

/** Sends a signal to the command. Errors: ERR_CONTAINER_NOT_RUNNING, ERR_VMM_REQUEST. */
export async function signalDirect(container: Running, signal: number): Promise<void> {
  const client = connectRunning(container);
  try {
    await client.request(ControlFrame.SIGNAL, uint32(signal));
  } finally {
    client.close();
  }
}

/** Sends a signal and waits for the end, which comes `seconds` later at the latest; negative: whenever. */
export async function endDirect(
  container: Running,
  signal: number,
  seconds: number,
): Promise<void> {
  const vmm = statusFile(container.dataDirectory)?.vmm;
  if (!vmm) return;
  // One that cannot be told, because it is paused or hangs, is ended like one that does not listen.
  await signalDirect(container, signal).catch(() => {});
  const patience = signal === 9 ? KILL_PATIENCE : seconds;
  const end = patience < 0 ? Number.POSITIVE_INFINITY : Date.now() + patience * 1000;
  while (processStartTime(vmm.pid) === vmm.startTime) {
    if (Date.now() >= end) process.kill(vmm.pid, 'SIGKILL');
    await sleep(LOOK_AGAIN);
  }
}
