/** The ways in which a VM can end that are no command's exit, as errors. */
import { ClearVMError, EXIT_ENGINE } from '../errors.js';
import { signalName } from './constants.js';
import { Failure } from './protocol.js';

/** Error codes of FAILURE events: a cause each. */
const FAILURES: Readonly<Record<number, { code: string; prefix: string }>> = {
  [Failure.CONFIG]: { code: 'ERR_VMM_CONFIG', prefix: 'the VMM refused its configuration' },
  [Failure.KVM]: { code: 'ERR_KVM', prefix: 'KVM failed' },
  [Failure.KERNEL]: { code: 'ERR_KERNEL_IMAGE', prefix: 'the guest kernel cannot be loaded' },
  [Failure.SHUTDOWN]: { code: 'ERR_GUEST_SHUTDOWN', prefix: 'the guest shut itself down' },
  [Failure.PANIC]: { code: 'ERR_GUEST_PANIC', prefix: 'the guest kernel panicked' },
  [Failure.AGENT]: { code: 'ERR_AGENT', prefix: "the guest's init failed" },
  [Failure.PROCESS]: { code: 'ERR_PROCESS_START', prefix: 'the command cannot be started' },
  [Failure.JAIL]: { code: 'ERR_JAIL', prefix: 'the VMM cannot enter its jail' },
  [Failure.SNAPSHOT]: { code: 'ERR_SNAPSHOT_DAMAGED', prefix: 'the snapshot cannot be used' },
  [Failure.FOREIGN]: {
    code: 'ERR_SNAPSHOT_FOREIGN',
    prefix: 'the snapshot is not for this host',
  },
  [Failure.FILES]: { code: 'ERR_SNAPSHOT_FILES', prefix: 'the snapshot cannot go on' },
  [Failure.DEVICE]: { code: 'ERR_DEVICE', prefix: 'a device of the VM failed' },
};

/** A FAILURE event's payload as an error. */
export function failureError(payload: Buffer): ClearVMError {
  if (payload.length < 12) {
    return new ClearVMError('ERR_VMM_PROTOCOL', 'the VMM reported a failure in a frame cut short');
  }
  const kind = payload.readUInt32LE(0);
  const exitCode = payload.readUInt32LE(4);
  const length = Math.min(payload.readUInt32LE(8), payload.length - 12);
  const message = payload.toString('utf8', 12, 12 + length).trim();
  const kernelLog = payload.toString('utf8', 12 + length).trimEnd();
  const known = FAILURES[kind] ?? { code: 'ERR_VMM', prefix: 'the VMM failed' };
  const reason = /Kernel panic - not syncing: (.+)/.exec(kernelLog)?.[1];
  const text = kind === Failure.PANIC && reason !== undefined ? reason : message;
  return new ClearVMError(
    known.code,
    kind === Failure.PROCESS || text === known.prefix ? text : `${known.prefix}: ${text}`,
    {
      exitCode: exitCode >= EXIT_ENGINE && exitCode <= 127 ? exitCode : EXIT_ENGINE,
      ...(kernelLog === '' ? {} : { kernelLog }),
    },
  );
}

/** The error of a VMM that has ended without an event that says why. */
export function endError(
  end: { code: number | null; signal: number | null },
  kernelLog: string,
): ClearVMError {
  const options = kernelLog === '' ? {} : { kernelLog: kernelLog.trimEnd() };
  const silence = kernelLog === '' ? ' (the guest kernel had logged nothing)' : '';
  return end.signal === null
    ? new ClearVMError(
        'ERR_VMM_ENDED',
        `the VMM ended with status ${end.code} without a word; run again with --debug, and report it${silence}`,
        options,
      )
    : new ClearVMError(
        'ERR_VMM_KILLED',
        `the VMM was killed by signal ${end.signal} (${signalName(end.signal)}): not by the container; look for the out-of-memory killer in the host's log, or for who sent it${silence}`,
        options,
      );
}

/** What a request to a VMM that is gone fails with. */
export function goneError(): ClearVMError {
  return new ClearVMError('ERR_VMM_GONE', 'the container has ended');
}
