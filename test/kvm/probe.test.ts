import { describe, expect, it } from 'vitest';

import { loadAddon } from '../../src/vm/native.js';

const addon = loadAddon();

describe('probeKvm', () => {
  it('judges this machine by what guests do on it', () => {
    const probe = addon.probeKvm('/dev/kvm');
    expect(probe.apiVersion).toBe(12);
    expect(['hardware', 'software']).toContain(probe.verdict);
    expect(probe.verdict === 'hardware').toBe(probe.checks.every((check) => check.passed));
    expect(probe.checks.map((check) => check.name)).toContain('system call from ring 3');
    expect(probe.capabilities.find(({ name }) => name === 'KVM_CAP_IRQFD')?.value).toBe(1);
    expect(probe.hostInstructionsPerSecond).toBeGreaterThan(1e6);
    expect(probe.error).toBeUndefined();
  });

  it('names what is wrong with a device that is missing', () => {
    const probe = addon.probeKvm('/nonexistent/kvm');
    expect(probe).toMatchObject({
      verdict: 'unusable',
      apiVersion: 0,
      error: { code: 'ERR_KVM_MISSING', errno: 2, syscall: 'open' },
    });
  });

  it('names what is wrong with a device that is not KVM', () => {
    expect(addon.probeKvm('/dev/null').error).toMatchObject({
      code: 'ERR_KVM_VERSION',
      errno: 25,
      syscall: 'ioctl(KVM_GET_API_VERSION)',
    });
  });
});
