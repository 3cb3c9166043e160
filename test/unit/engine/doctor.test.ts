import { describe, expect, test } from 'vitest';

import {
  chosenWord,
  diagnoseKernelVersion,
  diagnoseKvmDevice,
  isHealthy,
  judgeProbe,
} from '../../../src/engine/doctor.js';
import { hasVirtualizationFlag } from '../../../src/engine/kvm-check.js';
import type { KvmProbe } from '../../../src/vm/addon-types.js';

const probe: KvmProbe = {
  verdict: 'hardware',
  reason: 'fast',
  apiVersion: 12,
  capabilities: [
    { name: 'KVM_CAP_IRQFD', value: 1, required: true },
    { name: 'KVM_CAP_NICE', value: 0, required: false },
  ],
  createVmMs: 0.4,
  ring0InstructionsPerSecond: 2e9,
  hostInstructionsPerSecond: 3e9,
  checks: [],
};

describe('the probe’s verdict', () => {
  test('hardware is fine', () => {
    expect(judgeProbe(probe)).toMatchObject([{ id: 'kvm.verdict', level: 'ok' }]);
  });

  test('software is an error that points to the lab', () => {
    const [finding] = judgeProbe({
      ...probe,
      verdict: 'software',
      ring0InstructionsPerSecond: 1.7e6,
      createVmMs: 50,
    });
    expect(finding).toMatchObject({ id: 'kvm.verdict', level: 'error' });
    expect(finding?.message).toContain('2 million instructions/s');
    expect(finding?.advice).toContain('npm run lab');
  });

  test('unusable says what failed', () => {
    const error = { code: 'ERR_KVM', message: 'KVM_CREATE_VM: device busy' };
    const findings = judgeProbe({ ...probe, verdict: 'unusable', reason: 'no VM', error });
    expect(findings[0]?.message).toContain('no VM: KVM_CREATE_VM: device busy');
    expect(isHealthy(findings)).toBe(false);
  });

  test('a missing capability is an error only where it is needed', () => {
    const findings = judgeProbe({
      ...probe,
      capabilities: [
        { name: 'KVM_CAP_IRQFD', value: 0, required: true },
        { name: 'KVM_CAP_NICE', value: 0, required: false },
      ],
    });
    expect(findings.filter(({ level }) => level === 'error')).toMatchObject([
      { id: 'kvm.capability', message: 'KVM lacks KVM_CAP_IRQFD' },
    ]);
  });

  test('slow creation is a warning: containers run', () => {
    const findings = judgeProbe({ ...probe, createVmMs: 31 });
    expect(findings[1]).toMatchObject({ id: 'kvm.create', level: 'warning' });
    expect(findings[1]?.advice).toContain('favordynmods');
    expect(isHealthy(findings)).toBe(true);
  });
});

test.each([
  ['ENOENT', true, /modprobe/],
  ['ENOENT', false, /no hardware virtualization/],
  ['EACCES', true, /usermod/],
])('%s of the device (flag in cpuinfo: %s) has its advice', (errno, cpu, advice) => {
  const finding = diagnoseKvmDevice(errno, 'x', cpu);
  expect(finding.level).toBe('error');
  expect(finding.advice).toMatch(advice);
});

test.each([
  ['6.1.0-25-amd64', 'ok'],
  ['5.10.0', 'ok'],
  ['5.9.16', 'error'],
  ['4.19.0-27-amd64', 'error'],
  ['10.0', 'ok'],
])('Linux %s: %s', (version, level) => {
  expect(diagnoseKernelVersion(version).level).toBe(level);
});

test.each([
  ['always [madvise] never', 'madvise'],
  ['always within_size advise [never] deny force', 'never'],
  ['', undefined],
  [undefined, undefined],
])('chosenWord(%j)', (text, word) => {
  expect(chosenWord(text)).toBe(word);
});

test.each([
  ['flags\t\t: fpu vme svm pae', true],
  ['flags\t\t: fpu vmx', true],
  ['flags\t\t: fpu vmx_foo nosvm', false],
  ['model name: svm\nflags\t\t: fpu', false],
  ['', false],
])('the processor’s flags: %j', (cpuinfo, expected) => {
  expect(hasVirtualizationFlag(cpuinfo)).toBe(expected);
});
