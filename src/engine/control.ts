/** What is asked of a running container as a whole: to end, a signal, how it ends. */
import { setTimeout as sleep } from 'node:timers/promises';

import { ClearVMError } from '../errors.js';
import { signalName } from '../vm/constants.js';
import type { ExitStatus } from '../vm/vmm.js';
import { MonitorFrame } from './monitor-protocol.js';
import { MonitorConnection, stopDefaults } from './monitor.js';
import { isActive, readStatus, type ContainerRecord } from './record.js';
import type { Running } from './running.js';
import { signalNumber } from './signals.js';

const FOREVER = 0xffff_ffff;
/** How long a guest has to act on SIGKILL before its VM is ended, seconds. */
export const KILL_PATIENCE = 2;
/** How often it is looked whether a container has ended that nobody tells of, ms. */
const LOOK_AGAIN = 100;

/** How a container is asked to end. */
export interface StopOptions {
  /** Seconds until the VM is ended: the container's, or 10; negative: never. */
  timeout?: number;
  /** In place of the container's stop signal. */
  signal?: string | number;
}

/** Ends a container, and waits for that. False: it did not run. Errors: ERR_SIGNAL. */
export async function stopContainer(
  container: Running,
  record: ContainerRecord,
  options: StopOptions,
): Promise<boolean> {
  const defaults = stopDefaults(record);
  const signal = options.signal === undefined ? defaults.signal : signalNumber(options.signal);
  const seconds = options.timeout ?? defaults.seconds;
  const monitor = MonitorConnection.connect(container.directory);
  if (!monitor) {
    if (!isActive(readStatus(container.dataDirectory).status)) return false;
    const { endDirect } = await import('./direct-control.js');
    await endDirect(container, signal, seconds);
    return true;
  }
  await untilGone(monitor, MonitorFrame.DO_STOP, signal, seconds < 0 ? FOREVER : seconds);
  return true;
}

/** Sends a signal. Errors: ERR_CONTAINER_NOT_RUNNING, ERR_MONITOR_REQUEST. */
export async function killContainer(
  container: Running,
  record: ContainerRecord,
  signal: number,
): Promise<void> {
  const { id } = container;
  if (!isActive(readStatus(container.dataDirectory).status)) {
    throw new ClearVMError(
      'ERR_CONTAINER_NOT_RUNNING',
      `Cannot kill container: ${id.slice(0, 12)}: Container ${id} is not running`,
    );
  }
  const monitor = MonitorConnection.connect(container.directory);
  if (!monitor) {
    const { endDirect, signalDirect } = await import('./direct-control.js');
    return signal === 9 ? endDirect(container, 9, 0) : signalDirect(container, signal);
  }
  const forGood = signal === 9 || signal === stopDefaults(record).signal ? 1 : 0;
  await untilGone(monitor, MonitorFrame.DO_KILL, signal, forGood);
}

/** The status that it ends with next, or that it has ended with if it does not run. */
export async function waitForContainer({ directory, dataDirectory }: Running): Promise<ExitStatus> {
  let status: ExitStatus | undefined;
  for (;;) {
    const monitor = isActive(readStatus(dataDirectory).status)
      ? MonitorConnection.connect(directory)
      : undefined;
    if (!monitor) {
      // One of another process: it is gone with its command.
      while (isActive(readStatus(dataDirectory).status)) await sleep(LOOK_AGAIN);
      const { exitCode } = readStatus(dataDirectory);
      return { exitCode, signal: exitCode > 128 ? signalName(exitCode - 128) : null };
    }
    await new Promise<void>((resolve) => {
      monitor.setEvents({
        onExited: (exit) => {
          status = exit;
          monitor.close();
        },
        onClose: resolve,
      });
      monitor.send(MonitorFrame.DO_WAIT);
    });
    if (status) return status;
  }
}

/** Asks for the end; a monitor that is gone has ended, too. */
async function untilGone(
  monitor: MonitorConnection,
  type: number,
  ...values: number[]
): Promise<void> {
  try {
    await monitor.request(type, ...values);
  } catch (error) {
    if (!(error instanceof ClearVMError) || error.code !== 'ERR_MONITOR_GONE') throw error;
  } finally {
    monitor.close();
  }
}
