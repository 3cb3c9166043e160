import { describe, expect, test } from 'vitest';

import { failureError } from '../../../src/vm/failure.js';
import { Failure, Timeline } from '../../../src/vm/protocol.js';
import { TimelineRecorder } from '../../../src/vm/timings.js';

function failure(kind: number, exitCode: number, message: string, log = ''): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt32LE(kind, 0);
  head.writeUInt32LE(exitCode, 4);
  head.writeUInt32LE(Buffer.byteLength(message), 8);
  return Buffer.concat([head, Buffer.from(message), Buffer.from(log)]);
}

describe('failureError', () => {
  test.each([
    [Failure.CONFIG, 'ERR_VMM_CONFIG'],
    [Failure.KVM, 'ERR_KVM'],
    [Failure.KERNEL, 'ERR_KERNEL_IMAGE'],
    [Failure.SHUTDOWN, 'ERR_GUEST_SHUTDOWN'],
    [Failure.PANIC, 'ERR_GUEST_PANIC'],
    [Failure.AGENT, 'ERR_AGENT'],
    [Failure.JAIL, 'ERR_JAIL'],
    [Failure.DEVICE, 'ERR_DEVICE'],
  ])('kind %i is %s', (kind, code) => {
    const error = failureError(failure(kind, 125, 'the cause', 'a log line\n'));
    expect(error).toMatchObject({ code, exitCode: 125, kernelLog: 'a log line' });
    expect(error.message).toMatch(/^.+: the cause$/);
  });

  test('a panic says why, in the kernel’s words', () => {
    const log = 'a\nKernel panic - not syncing: No working init found.\nCPU: 0';
    const reported = failure(Failure.PANIC, 125, 'the guest kernel panicked', log);
    expect(failureError(reported).message).toBe(
      'the guest kernel panicked: No working init found.',
    );
    const silent = failure(Failure.PANIC, 125, 'the guest kernel panicked');
    expect(failureError(silent).message).toBe('the guest kernel panicked');
  });

  test.each([126, 127])('a command that does not start keeps its status %i and words', (status) => {
    const error = failureError(failure(Failure.PROCESS, status, 'exec: "x": not found'));
    expect(error).toMatchObject({
      code: 'ERR_PROCESS_START',
      exitCode: status,
      message: 'exec: "x": not found',
      kernelLog: undefined,
    });
  });

  test.each([0, 7, 124, 128, 0xffff_ffff])('no failure becomes exit status %i', (status) => {
    expect(failureError(failure(Failure.PANIC, status, 'x')).exitCode).toBe(125);
  });

  test('a kind of tomorrow and a frame cut short are errors still', () => {
    expect(failureError(failure(99, 125, 'new')).code).toBe('ERR_VMM');
    expect(failureError(Buffer.alloc(11)).code).toBe('ERR_VMM_PROTOCOL');
    const lying = failure(Failure.KVM, 125, 'abc');
    lying.writeUInt32LE(0xffff_ffff, 8);
    expect(failureError(lying).message).toContain('abc');
  });
});

describe('TimelineRecorder', () => {
  function stamps(...entries: [number, bigint][]): Buffer {
    return Buffer.concat(
      entries.map(([point, time]) => {
        const stamp = Buffer.alloc(16);
        stamp.writeUInt32LE(point, 0);
        stamp.writeBigUInt64LE(time, 8);
        return stamp;
      }),
    );
  }

  test('orders points of both sides by time, in ms since the request', () => {
    const timeline = new TimelineRecorder();
    timeline.mark('request', 1_000_000n);
    timeline.mark('spawned', 3_500_000n);
    timeline.addStamps(
      stamps(
        [Timeline.STARTED, 9_000_000n],
        [Timeline.VMM_START, 3_000_000n],
        [77, 5n],
        [Timeline.EXITED, 0n],
      ),
    );
    expect(timeline.list()).toEqual([
      { point: 'request', at: 0 },
      { point: 'vmm.start', at: 2 },
      { point: 'spawned', at: 2.5 },
      { point: 'started', at: 8 },
    ]);
  });

  test('keeps the first stamp of a point, and takes no half ones', () => {
    const timeline = new TimelineRecorder();
    timeline.addStamps(stamps([Timeline.INIT, 5n], [Timeline.INIT, 6n]));
    timeline.addStamps(stamps([Timeline.EXEC, 5n]).subarray(0, 15));
    expect(timeline.at('init')).toBe(5n);
    expect(timeline.at('exec')).toBeUndefined();
  });
});
